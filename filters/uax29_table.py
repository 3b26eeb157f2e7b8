"""Which Word_Break property does each character have: Unicode's table, packed.

Unicode 16.0, the version that the Python package uniseg 0.10.1 has: the splitter of DCLM, whose words these are to
be. tests/test_uax29.py compares all 1,114,112 code points with it. Unicode 18.0 gives other classes to characters
it added, to U+00B8 (a letter there), and takes 707 reserved code points and old symbols from the pictographs.
"""

CLASSES = (
    "Other",
    "CR",
    "LF",
    "Newline",
    "Extend",
    "ZWJ",
    "Format",
    "Katakana",
    "ALetter",
    "MidLetter",
    "MidNum",
    "MidNumLet",
    "Numeric",
    "ExtendNumLet",
    "Regional_Indicator",
    "Hebrew_Letter",
    "Double_Quote",
    "Single_Quote",
    "WSegSpace",
)
"""The values of Word_Break; a character's number is its place here."""

PICTOGRAPHIC = 32
"""Added to the number of a character that is Extended_Pictographic."""

PACKED = """
c-n<mO^9X16+Tt>+<VXcdGEe=`{(sc|Ge8hZQC<F<Fqr*pP;m;ErSb18I1@r@h6*rii#T-Hc3c=!Cgo~1l@!oxRNXq20=zJx-
mEl6|&35RRX$j<wE?<se0XSOf-vnRk!NYsq=rnM^t*3c;~2X9l3!c9%7VOR~U6!IIL4SOx(ja<}z_~q;ulPXRdRUVdV;ZiPDWgGs
gH=f`c`FR#JR;9D=17ap5E(T|1e@co5?^_~2YF>)wXa>N)6+hC6%$$4cVka3swlal=YQRh>~*;tj6IWsVZr;<>tn@G3f9XD3f6N6
u^Il3_==u=u)!EGl?oR4crQuSdATP9JBhT&V2E1q!k%Igfh|`;HTglv+8&39(dAegSkD-
u0A%;utT~j#uTZQMUTNlz7>zY%*ZAf`Fr1XCCX^UP++6$^vRqIlbN{!P}4*6iMKKb*VN~nT%6r=Lekp{_tkIlsIss1mAhEG37NR6
5XkcOF_Xq(_GRhkAO>JV`8zOi`pU!XaA+o^!<H(C^w5uX=AbsI7CGT8z?Wv>|>;OTkC!zH8e?~h04MvOUC9ea7ZCR&_Dxmu>Z1))
H&O$cFXT;Fp!D#2Y1WsB%i*Y1-tG`uJ)}F6%*SXg+-
_CSXu;|PqZy%Vy_nZEJVAjM7eo~&7SHtp$zo;)@|nL950EcB|U841^kxV_Xh5dR649HcJaRQ@}}21R<oKvl4_ptIu$s5QulBJ^5Z
;umsJX;9@okN5u#S!FbPwWatrH!cyp1DVH?&*<GlJm&Kk@Y;`&YtgANWF$V2#6m;Xl(hOL&ERPMz_1&g(KyO0?WS6F+hr5CJ>^$v
HYgIaWzlgwm=cOJpL6nd_4ka!pNMoD6go0>|{?76z48)Sqqy1;NDFRP>VGR8cQ>1G7dNgl#*33i4sbB#1y;hvR@<J^ZJ>oA?*6hV
o-bqKE|U<-
3XmfSoi3=t5V5|TKTtB!Z%ciuGiR_b(?Xr;**WADsVK}c+Eg~8IirvVlATF|ummP=jcNh*{D)NNm&re`TCc8v<{dq^D=F~+*YUfH
?~WjPCJ*VEJk&(pk0L(wv$E-vHSsolC>J}n*Prn5qwDg}0j@O{-
~)O4Oc_xRC=AH&$iIMh{OlhE5v>P;s%(p3kF5+?=5tsNNRs_PJM-E-
J~kvwi_bFl`4k;J*gy+&2)f;!IT#OA6?=>*owvmeKoD#}L*c4x3S9dEtq<TLF>h<MSMnvU)Bh#pio)+$h#3%+L{0#AbaTG9r)tuu
toQ?OD2A7!7z^7*6Wa<<rT@<UjvqwRb^zn|!LHa`i1AJCuw>EzXd?v$G##;aQG23F^15sI*o2C9q^*Y_j#=jDAXV9_H&bE4%F#lv
E5WaZw`jNF3A^>T_^3;YaiNOLW=MX+CDE!iXP!3@iq_IRvMeQ~jj*e#T_K8&H<C6+KG9G$WflUR95V`E;C3U7NWb)`jj7zd`j75t
vJW)e7M@~4OK_y`8PnSQYgni?^cHsIDk<pv4gAX*!|)%Z9{d7M_|-
yYp}2kg(%rgen@C56^v%n12~UNV6(rQ(FchDCm5xP|iS`%zAnpNHMXu+@PMn%PU4wyxS}oXo@)*Wj#AYw{A^jm-VE8scY8?Fp3-
N;HPgd$NKTHdv!$1@tJ$miZ|ilh<7|g>LHDBvIF)q&O>_lU{oLcVaYu^RVtbtSz*ljYW=GL%G`|R&9<)VvU#)=rpj$bVroFw7Z9C
7oo4MZ6`EC^C?@dYpq$fimfr#nO@6u#H3#W-61$2aG8OYEj=w4>71O#TE{wqS3+%-
B}7<i4fZP&lS5x0;E8j1Y}qi40Ap1!nb!VeGDnLlFf#QFH#9~!vfc~20yj>8($~%eD{EEokYXAHdV+`h*4q@XdE<M8158zJ+uRrJ
d74>T)I)JQ0`VOXT}`2EJGy<Ui3Qu2s1PSXk=i@_ov6n}956vW6Qq)AcZyv$MPDmp?+@r#@kSAGoioe<?1nun)ws6|JG5GORWnU_
q}(>o#!{e$zU&}gZs1@f3i{SSFf{*H1{Aiq7oZ<}GK&t_5M%v50tL&bWCtH}rjv`!NqH|ACQ-RLNTb~tl)FZGqdk}hD?;u?{Fbt*
JL-N#>{wNDljbI<T7<|44mhE)uvhqVgVhAl;)}fn%@Kw{;lzvkM%{oA$^Kt~+@7-
7vba}@j?;LWMjij^fggY(%p1<|!&<a`Pos%0f$%>0V@^MjXHcErbM)b?{1^cDEy)Jfz#GKnYhyU>1EwoyfCE~!S5K}05Gu4V3GR!
t%B^nQ#v=tBRU1T}!|fS*E0GfhDPZg!z!2aZHd~$pved@D6Z~j++|$=Dqi?tz+M|!S+|e68N7==qkApwV$xp$x2ZI)n14u;m&X_*
z@WL;d(MNbhuLrc8q1}l^-
3qMnTg~ye6S;)f?uq}<T#RCk=sL!{8vc$5+9ZB2#au`uM9{sDy``SBG5$X@#Hdfv9z$#9Qx+Y4jCpfiL)Qe9>d{XEiXNKO(Wy}Qb
~GPH&#EO60=ZRAZNBe%ct(-Pan^YLG(mB)h5oVg*3mu-((-=UcJg;;5c;UxW#OwAE*D0z7^x<?S;m{8Qe+V-
9l)aGTlC)^lQWKX<SBm2dl+F|YU}rWx96z`<TCEG*<={L<4q3;rSOam1(nox7y4*LU1NA^)^?Fjz*I%|7X*3t4q##Til^;v&(RCO
SeLpjpfjfPo#0MJo0wO+2e1bm0*<b`lF%0x%-z>H{d{j5{c?qWgm~pI9DM^aF}5N
"""
"""Base 85 of zlib of runs: the distance of a run's first code point from that of the run before, 7 bits to a byte,
the lowest first, bit 7 set where more follow; then one byte, the number of all its characters."""
