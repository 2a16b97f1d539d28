// SPDX-License-Identifier: GPL-2.0-or-later
//! The Point-to-Point Protocol and what is like it: in HDLC-like framing, over Ethernet, Cisco's.

use super::{Network, WholeFrame};

/// RFC 1662, section 3.1: all stations, unnumbered information.
const ALL_STATIONS: u8 = 0xff;
const UNNUMBERED_INFORMATION: u8 = 0x03;
/// What pppd writes in place of the address: received, or sent.
const PPPD_DIRECTIONS: [u8; 2] = [0, 1];

/// Cisco HDLC: unicast and multicast.
const CISCO_ADDRESSES: [u8; 2] = [0x0f, 0x8f];
/// Address and control, before an EtherType.
const CISCO_HEADER: usize = 4;

/// RFC 2516, section 4: version 1, type 1.
const PPPOE_VERSION_AND_TYPE: u8 = 0x11;
const PPPOE_SESSION_DATA: u8 = 0;
/// Version and type, code, session, and the length of what follows.
const PPPOE_HEADER: usize = 6;

/// PPP protocol numbers: RFC 1332, RFC 5072 and RFC 3032, section 4.3.
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: [u16; 2] = [0x0281, 0x0283];

impl<'a> WholeFrame<'a> {
    /// PPP with an address and a control field, or without where both ends agreed to leave them
    /// out (RFC 1662, section 3.2). A serial line's capture may hold Cisco HDLC instead.
    pub(super) fn behind_hdlc(&self, offset: usize) -> Network<'a> {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        match rest {
            [ALL_STATIONS, UNNUMBERED_INFORMATION, ..] => self.behind_ppp(offset + 2),
            [direction, UNNUMBERED_INFORMATION, ..] if PPPD_DIRECTIONS.contains(direction) => {
                self.behind_ppp(offset + 2)
            }
            [address, 0, ..] if CISCO_ADDRESSES.contains(address) => self.behind_cisco_hdlc(offset),
            _ => self.behind_ppp(offset),
        }
    }

    pub(super) fn behind_cisco_hdlc(&self, offset: usize) -> Network<'a> {
        match self.u16_at(offset + 2) {
            Some(ethertype) => self.behind(ethertype, offset + CISCO_HEADER),
            None => Network::Other,
        }
    }

    /// A session's packet; discovery has an EtherType of its own. Padding may follow it.
    pub(super) fn behind_pppoe(&self, offset: usize) -> Network<'a> {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let [
            PPPOE_VERSION_AND_TYPE,
            PPPOE_SESSION_DATA,
            _,
            _,
            high,
            low,
            ..,
        ] = rest
        else {
            return Network::Other;
        };
        let start = offset + PPPOE_HEADER;
        let len = u32::from(u16::from_be_bytes([*high, *low]));
        let end = start as u32 + len;
        let session = Self {
            bytes: self.bytes.get(..end as usize).unwrap_or(self.bytes),
            wire_len: self.wire_len.min(end),
        };
        session.behind_ppp(start)
    }

    /// The protocol number, whose first byte may be left out where it is 0: all numbers are odd,
    /// and their first bytes even (RFC 1661, section 2).
    fn behind_ppp(&self, offset: usize) -> Network<'a> {
        let (protocol, next) = match self.bytes.get(offset..) {
            Some([short, ..]) if short % 2 == 1 => (u16::from(*short), offset + 1),
            Some([high, low, ..]) => (u16::from_be_bytes([*high, *low]), offset + 2),
            _ => return Network::Other,
        };
        match protocol {
            PPP_IPV4 => self.ipv4(next),
            PPP_IPV6 => self.ipv6(next),
            _ if PPP_MPLS.contains(&protocol) => self.behind_labels(next),
            _ => Network::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LinkType;
    use super::super::tests::{ethernet, ipv4, ipv6, of};

    fn behind(header: &[u8], packet: &[u8]) -> Vec<u8> {
        [header, packet].concat()
    }

    #[test]
    fn ppp_is_read_with_and_without_the_fields_that_may_be_left_out() {
        let packet = ipv4(40, 40);
        for header in [
            &[0xff, 3, 0, 0x21][..],
            &[0xff, 3, 0x21],
            &[0, 0x21],
            &[0x21],
            // As pppd writes it.
            &[0, 3, 0, 0x21],
            &[1, 3, 0, 0x21],
            // Cisco HDLC on a serial line.
            &[0x0f, 0, 8, 0],
            // A label.
            &[0xff, 3, 2, 0x81, 0, 2, 1, 64],
        ] {
            let frame = behind(header, &packet);
            assert_eq!(of(LinkType::Ppp, &frame), Some((4, 40, 40)), "{header:x?}");
        }
        let frame = behind(&[0xff, 3, 0, 0x57], &ipv6(8, 17, 48));
        assert_eq!(of(LinkType::Ppp, &frame), Some((6, 48, 48)));
        let frame = behind(&[1, 0xff, 3, 0, 0x21], &packet);
        assert_eq!(of(LinkType::PppWithDirection, &frame), Some((4, 40, 40)));
        // Link control.
        let frame = behind(&[0xff, 3, 0xc0, 0x21], &packet);
        assert_eq!(of(LinkType::Ppp, &frame), None);
    }

    #[test]
    fn cisco_hdlc_leads_to_its_packet() {
        let frame = behind(&[0x8f, 0, 0x86, 0xdd], &ipv6(8, 17, 48));
        assert_eq!(of(LinkType::CiscoHdlc, &frame), Some((6, 48, 48)));
    }

    #[test]
    fn pppoe_session_is_read_below_tags_and_without_ethernet() {
        let session = [0x11, 0, 0, 9, 0, 42, 0, 0x21];
        let packet = ipv4(40, 40);
        for tags in [
            &[][..],
            &[0x81, 0, 0, 7],
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9],
        ] {
            let between = [tags, &[0x88, 0x64], &session].concat();
            let frame = ethernet(&between, &packet);
            assert_eq!(
                of(LinkType::Ethernet, &frame),
                Some((4, 40, 40)),
                "{tags:x?}"
            );
        }
        let frame = behind(&session, &packet);
        assert_eq!(of(LinkType::Pppoe, &frame), Some((4, 40, 40)));
    }

    #[test]
    fn padding_behind_a_pppoe_session_is_no_part_of_a_packet_without_length() {
        let frame = behind(
            &[0x11, 0, 0, 9, 0, 42, 0, 0x21],
            &[&ipv4(0, 40)[..], &[0; 6]].concat(),
        );
        assert_eq!(of(LinkType::Pppoe, &frame), Some((4, 40, 40)));
    }

    #[test]
    fn pppoe_discovery_and_cut_sessions_have_no_packet() {
        for between in [
            &[0x88, 0x63, 0x11, 9, 0, 0, 0, 4, 1, 1, 0, 0][..],
            &[0x88, 0x64, 0x11, 0x19, 0, 9, 0, 42, 0, 0x21],
            &[0x88, 0x64, 0x21, 0, 0, 9, 0, 42, 0, 0x21],
            &[0x88, 0x64, 0x11, 0, 0, 9, 0],
            &[0x88, 0x64, 0x11, 0, 0, 9, 0, 42, 0],
        ] {
            let frame = ethernet(between, &[]);
            assert_eq!(of(LinkType::Ethernet, &frame), None, "{between:x?}");
        }
    }
}
