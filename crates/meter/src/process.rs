use std::fs;

/// What this process takes of the machine, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUse {
    /// Memory that is really there, in bytes.
    pub resident_bytes: u64,
    /// Processor time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// Open files, connections among them.
    pub open_files: u64,
}

/// What this process takes now; zero for what the kernel does not say.
pub fn process_use() -> ProcessUse {
    let pages = || fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse::<u64>().ok();
    // The listing is an open file too.
    let files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1));
    ProcessUse {
        resident_bytes: pages().unwrap_or(0) * rustix::param::page_size() as u64,
        cpu_seconds: crate::process_cpu_seconds(),
        open_files: files as u64,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memory_and_files_that_are_taken_show() {
        let before = process_use();
        let memory = vec![1_u8; 64 << 20];
        let files: Vec<fs::File> = (0..10).map(|_| fs::File::open("/proc/self/statm").unwrap()).collect();
        let now = process_use();
        assert!(std::hint::black_box(&memory).len() as u64 <= now.resident_bytes);
        assert!(now.open_files >= before.open_files + files.len() as u64);
        assert!(now.cpu_seconds > 0.0 && before.resident_bytes > 1 << 20);
    }
}
