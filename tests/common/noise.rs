//! Contents for objects.

/// Bytes that do not repeat at any part boundary.
pub fn bytes(size: usize) -> Vec<u8> {
    let mut state = size as u64 + 1;
    let mut out = Vec::with_capacity(size + 8);
    while out.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend((state >> 16).to_le_bytes());
    }
    out.truncate(size);
    out
}
