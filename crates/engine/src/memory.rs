//! What models take of this process's memory: the C library's heap, out of which ONNX Runtime takes all of it.

#![allow(unsafe_code, reason = "the C library tells of its heap through two functions of its own only")]

/// Bytes of the C library's heap that are in use.
///
/// The difference around a load is what that load really added, whatever the size of its file: weights that were
/// packed again, the plan, arenas. Rust's own allocations are in the same heap, so loads are measured one at a time, and
/// what requests hold meanwhile is an error of some kilobytes.
pub fn heap_bytes() -> u64 {
    // SAFETY: `mallinfo2` takes nothing, and only reads the allocator's counters, under its own locks.
    let heap = unsafe { libc::mallinfo2() };
    (heap.uordblks + heap.hblkhd) as u64
}

/// Gives pages of the heap that nothing uses back to the system, after a model was unloaded.
pub fn trim_heap() {
    // SAFETY: `malloc_trim` takes a number, and releases only memory that is free, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_grows_by_what_is_allocated_and_shrinks_again() {
        const SIZE: usize = 64 << 20;
        let before = heap_bytes();
        let block = std::hint::black_box(vec![1_u8; SIZE]);
        let during = heap_bytes();
        assert!(during >= before + SIZE as u64 / 2, "{before} {during}");
        drop(block);
        trim_heap();
        assert!(heap_bytes() < during - SIZE as u64 / 2);
    }
}
