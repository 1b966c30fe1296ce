//! What models take of this process's memory: the C library's heap, out of which ONNX Runtime takes all of it.

#![allow(unsafe_code, reason = "allocators are told and asked through functions of their own only")]

/// Bytes of the C library's heap that are in use.
///
/// The difference around a load is what that load really added, whatever the size of its file: weights that were
/// packed again, the plan, arenas. What others compute with meanwhile is in the same heap, so loads are measured one at a
/// time, and that is an error of some kilobytes.
pub fn heap_bytes() -> u64 {
    // SAFETY: `mallinfo2` takes nothing, and only reads the allocator's counters, under its own locks.
    let heap = unsafe { libc::mallinfo2() };
    (heap.uordblks + heap.hblkhd) as u64
}

/// Gives memory that nothing uses back to the system: pages of the C library's heap, and what mimalloc, out of which a
/// program may have its own allocations, keeps for the next ones. Others who allocate wait meanwhile.
pub fn trim_heap() {
    // SAFETY: `malloc_trim` takes a number, and releases only memory that is free, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: `mi_collect` takes a flag, may be called on any thread, and frees only what is in nobody's hands.
    unsafe { libmimalloc_sys::mi_collect(true) };
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
