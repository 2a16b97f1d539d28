# SPDX-License-Identifier: GPL-2.0-or-later
# Rules of ip6tables; those of iptables are in libxt_TRAFSTAT.t, for a local net is of one
# family. Options without an address are tried at length there; here are some of the same lines.
:INPUT,FORWARD,OUTPUT
# The local net: mandatory, host bits as typed, a mask or a prefix length.
-j TRAFSTAT;;FAIL
-j TRAFSTAT --local-net ::/0;=;OK
-j TRAFSTAT --local-net ::1/128;-j TRAFSTAT --local-net ::1;OK
-j TRAFSTAT --local-net 2001:db8::1/128;-j TRAFSTAT --local-net 2001:db8::1;OK
-j TRAFSTAT --local-net 2001:db8::1/32;=;OK
-j TRAFSTAT --local-net 2001:db8:1:2::/64;=;OK
-j TRAFSTAT --local-net 2001:db8:0:1:1:1:1:1/128;-j TRAFSTAT --local-net 2001:db8:0:1:1:1:1:1;OK
-j TRAFSTAT --local-net fe80::/10;=;OK
-j TRAFSTAT --local-net ::ffff:192.0.2.1/128;-j TRAFSTAT --local-net ::ffff:192.0.2.1;OK
-j TRAFSTAT --local-net ffff:ffff::/1;=;OK
-j TRAFSTAT --local-net 2001:db8::1;=;OK
-j TRAFSTAT --local-net 2001:0DB8:0:0:0:0:0:0001;-j TRAFSTAT --local-net 2001:db8::1;OK
-j TRAFSTAT --local-net ::ffff:c000:201;-j TRAFSTAT --local-net ::ffff:192.0.2.1;OK
-j TRAFSTAT --local-net 2001:db8::/ffff:ffff::;-j TRAFSTAT --local-net 2001:db8::/32;OK
-j TRAFSTAT --local-net 2001:db8::/::;-j TRAFSTAT --local-net 2001:db8::/0;OK
-j TRAFSTAT --local-net 2001:db8::/ffff:0:ffff::;;FAIL
-j TRAFSTAT --local-net 2001:db8::/255.255.0.0;;FAIL
-j TRAFSTAT --local-net 2001:db8::/129;;FAIL
-j TRAFSTAT --local-net 2001:db8::/;;FAIL
-j TRAFSTAT --local-net 2001:db8::/-1;;FAIL
-j TRAFSTAT --local-net 2001:db8::/064;;FAIL
-j TRAFSTAT --local-net 2001:db8::/64/64;;FAIL
-j TRAFSTAT --local-net 2001:db8;;FAIL
-j TRAFSTAT --local-net 2001:db8::1::2;;FAIL
-j TRAFSTAT --local-net 2001:db8::12345;;FAIL
-j TRAFSTAT --local-net [2001:db8::1];;FAIL
-j TRAFSTAT --local-net fe80::1%lo;;FAIL
-j TRAFSTAT --local-net localhost;;FAIL
-j TRAFSTAT --local-net 192.0.2.1;;FAIL
-j TRAFSTAT --local-net 10.0.0.0/8;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --local-net 2001:db8::2;;FAIL
-j TRAFSTAT ! --local-net 2001:db8::1;;FAIL
# The account's name: the default is not saved, and is refused where it is too long.
-j TRAFSTAT --local-net 2001:db8::1 --name web;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --name 2001:db8::1;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --name 2001:db8:0::1_128;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --name 2001:db8::1_128;-j TRAFSTAT --local-net 2001:db8::1;OK
-j TRAFSTAT --name web --local-net 2001:db8::1;-j TRAFSTAT --local-net 2001:db8::1 --name web;OK
-j TRAFSTAT --local-net 2001:db8:111:2222:333::4444/128;-j TRAFSTAT --local-net 2001:db8:111:2222:333::4444;OK
-j TRAFSTAT --local-net 2001:db8:1111:2222:333::4444;;FAIL
-j TRAFSTAT --local-net 2001:db8:1111:2222:333::4444/64;=;OK
-j TRAFSTAT --local-net 2001:db8:1111:2222:3333:4444:5555:6666/0;;FAIL
-j TRAFSTAT --local-net 2001:db8:1111:2222:3333:4444:5555:6666 --name long-address;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --name nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --name .hidden;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --name 2001:db8::/64;;FAIL
# Ports.
-j TRAFSTAT --local-net 2001:db8::1 --local-tcp-ports 443,80,80,1000:1999,1500:1600;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --local-udp-ports domain,1:domain;-j TRAFSTAT --local-net 2001:db8::1 --local-udp-ports 53,1:53;OK
-j TRAFSTAT --local-net 2001:db8::1 --remote-tcp-ports 22 --remote-tcp-ports 80,443;-j TRAFSTAT --local-net 2001:db8::1 --remote-tcp-ports 22,80,443;OK
-j TRAFSTAT --local-net 2001:db8::1 --remote-udp-ports ALL;-j TRAFSTAT --local-net 2001:db8::1 --remote-udp-ports all;OK
-j TRAFSTAT --local-net 2001:db8::1 --local-tcp-ports 0;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --local-udp-ports 65536;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --remote-tcp-ports 23:22;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --remote-udp-ports no-such-service;;FAIL
# Limits, policy and sampling.
-j TRAFSTAT --local-net 2001:db8::1 --max-entries 1000;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --max-entries 0;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --traf-policy accept;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --traf-policy reject;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --min-pkt-spoof 3;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --min-pkt-spoof x;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --sample-tcp-syn 1;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --sample-tcp-syn 4294967296;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --sample-tcp-any 4294967295;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --sample-tcp-any 1.5;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --sample-udp-any 1;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --sample-udp-any 4294967296;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --fast-aggregate;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --fast-aggregate --fast-aggregate;;FAIL
-j TRAFSTAT --local-net 2001:db8::1 --dump-priority 100;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --dump-priority 101;;FAIL
# All at once.
-j TRAFSTAT --local-net 2001:db8::1 --local-tcp-ports 22,80 --local-udp-ports all --remote-tcp-ports 443 --remote-udp-ports 53,123 --max-entries 2000 --traf-policy accept --min-pkt-spoof 3 --sample-tcp-syn 10 --sample-tcp-any 20 --sample-udp-any 30 --fast-aggregate --dump-priority 5 --name all-of-them;=;OK
-j TRAFSTAT --local-net 2001:db8::1 --no-such-option;;FAIL
