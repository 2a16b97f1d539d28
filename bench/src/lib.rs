//! What the benches have in common: traffic of many flows in a fixed, random-looking
//! order.

use trafstat_core::synthetic::{Flow, flows, header};

/// Packets of `n` flows, each flow once, in an order without locality.
pub fn shuffled_packets(n: u32) -> Vec<[u8; 40]> {
    let flows: Vec<Flow> = flows(n).collect();
    shuffle(flows)
        .iter()
        .map(|flow| header(flow, true, false))
        .collect()
}

/// The items in a fixed, random-looking order (Fisher-Yates over xorshift64).
pub fn shuffle<T>(mut items: Vec<T>) -> Vec<T> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for i in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(i, state as usize % (i + 1));
    }
    items
}
