"""Every byte in and out: storage and commits, readers, the exchange, MDS shards, the feed to a trainer."""
