//! What is kept of a message's bytes while its event is held.

use bytes::Bytes;

/// From this size on a payload is copied: a quarter of the 64 KiB buffers that the client reads into.
const COPIED_FROM_BYTES: usize = 16 * 1024;

/// The payload, without the rest of the buffer that it was received in where that would be much.
///
/// A slice keeps its whole buffer alive. Many small messages share one, and fill it. A message that reaches beyond the
/// end of a buffer is moved to another, and leaves a part of it in the first; one above 64 KiB has a buffer of its own
/// which was doubled until it was large enough. So large payloads would occupy up to twice the bytes that they are
/// charged for, and to copy them costs little beside decoding them.
pub(super) fn kept(payload: Bytes) -> Bytes {
    if payload.len() < COPIED_FROM_BYTES { payload } else { Bytes::copy_from_slice(&payload) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_payload_leaves_its_buffer_and_a_small_one_shares_it() {
        let buffer = Bytes::from(vec![b'x'; 64 * 1024]);
        let small = kept(buffer.slice(10..COPIED_FROM_BYTES));
        assert_eq!(small.as_ptr(), buffer[10..].as_ptr());
        let large = kept(buffer.slice(10..10 + COPIED_FROM_BYTES));
        assert_ne!(large.as_ptr(), buffer[10..].as_ptr());
        assert_eq!(large, buffer.slice(10..10 + COPIED_FROM_BYTES));
    }
}
