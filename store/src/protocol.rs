// SPDX-License-Identifier: GPL-2.0-or-later
//! IANA's protocol numbers and their keywords.
//!
//! Source: IANA, Assigned Internet Protocol Numbers. Where IANA has a number but
//! no keyword, a name in small letters stands in for it.

/// The keyword of a protocol number; none if it is not assigned.
pub fn name(number: u8) -> Option<&'static str> {
    all()
        .find(|&(assigned, _)| assigned == number)
        .map(|(_, name)| name)
}

/// The number that a text means: a number, a keyword in any case, or `icmpv6`.
pub fn parse(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    if text.eq_ignore_ascii_case("icmpv6") {
        return Some(58);
    }
    all()
        .find(|(_, name)| name.eq_ignore_ascii_case(text))
        .map(|(number, _)| number)
}

/// Every assigned number and its keyword, in ascending order.
pub fn all() -> impl Iterator<Item = (u8, &'static str)> {
    (0..).zip(FROM_ZERO).chain(TO_255)
}

#[rustfmt::skip]
const FROM_ZERO: [&str; 148] = [
    // 0
    "HOPOPT", "ICMP", "IGMP", "GGP", "IPv4", "ST", "TCP", "CBT", "EGP", "IGP",
    // 10
    "BBN-RCC-MON", "NVP-II", "PUP", "ARGUS", "EMCON", "XNET", "CHAOS", "UDP", "MUX", "DCN-MEAS",
    // 20
    "HMP", "PRM", "XNS-IDP", "TRUNK-1", "TRUNK-2", "LEAF-1", "LEAF-2", "RDP", "IRTP", "ISO-TP4",
    // 30
    "NETBLT", "MFE-NSP", "MERIT-INP", "DCCP", "3PC", "IDPR", "XTP", "DDP", "IDPR-CMTP", "TP++",
    // 40
    "IL", "IPv6", "SDRP", "IPv6-Route", "IPv6-Frag", "IDRP", "RSVP", "GRE", "DSR", "BNA",
    // 50
    "ESP", "AH", "I-NLSP", "SWIPE", "NARP", "Min-IPv4", "TLSP", "SKIP", "IPv6-ICMP", "IPv6-NoNxt",
    // 60
    "IPv6-Opts", "any-host-internal", "CFTP", "any-local-network", "SAT-EXPAK", "KRYPTOLAN", "RVD", "IPPC", "any-distributed-fs", "SAT-MON",
    // 70
    "VISA", "IPCV", "CPNX", "CPHB", "WSN", "PVP", "BR-SAT-MON", "SUN-ND", "WB-MON", "WB-EXPAK",
    // 80
    "ISO-IP", "VMTP", "SECURE-VMTP", "VINES", "IPTM", "NSFNET-IGP", "DGP", "TCF", "EIGRP", "OSPFIGP",
    // 90
    "Sprite-RPC", "LARP", "MTP", "AX.25", "IPIP", "MICP", "SCC-SP", "ETHERIP", "ENCAP", "any-private-encryption",
    // 100
    "GMTP", "IFMP", "PNNI", "PIM", "ARIS", "SCPS", "QNX", "A/N", "IPComp", "SNP",
    // 110
    "Compaq-Peer", "IPX-in-IP", "VRRP", "PGM", "any-0-hop", "L2TP", "DDX", "IATP", "STP", "SRP",
    // 120
    "UTI", "SMP", "SM", "PTP", "ISIS-over-IPv4", "FIRE", "CRTP", "CRUDP", "SSCOPMCE", "IPLT",
    // 130
    "SPS", "PIPE", "SCTP", "FC", "RSVP-E2E-IGNORE", "Mobility-Header", "UDPLite", "MPLS-in-IP", "manet", "HIP",
    // 140
    "Shim6", "WESP", "ROHC", "Ethernet", "AGGFRAG", "NSH", "Homa", "BIT-EMU",
];

const TO_255: [(u8, &str); 3] = [
    (253, "experiment-253"),
    (254, "experiment-254"),
    (255, "reserved"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_numbers_have_their_keywords() {
        // Far enough apart that a keyword missed or doubled between them shows.
        for (number, keyword) in [
            (0, "HOPOPT"),
            (6, "TCP"),
            (17, "UDP"),
            (33, "DCCP"),
            (47, "GRE"),
            (58, "IPv6-ICMP"),
            (89, "OSPFIGP"),
            (103, "PIM"),
            (112, "VRRP"),
            (115, "L2TP"),
            (132, "SCTP"),
            (136, "UDPLite"),
            (145, "NSH"),
            (255, "reserved"),
        ] {
            assert_eq!(name(number), Some(keyword));
        }
    }

    #[test]
    fn unassigned_number_has_no_keyword() {
        assert_eq!(name(148), None);
        assert_eq!(name(252), None);
    }

    #[test]
    fn keyword_means_its_number_in_any_case() {
        for (number, keyword) in all() {
            assert_eq!(parse(keyword), Some(number));
            assert_eq!(parse(&keyword.to_lowercase()), Some(number));
        }
        assert_eq!(parse("200"), Some(200));
        assert_eq!(parse("icmpv6"), Some(58));
        assert_eq!(parse("256"), None);
        assert_eq!(parse("tcpp"), None);
    }
}
