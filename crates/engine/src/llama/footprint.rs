use super::log::{Heard, SIZE};

/// The memory that a loaded model takes, in bytes, to a hundredth of a MiB for each part: it is what llama.cpp's log says of
/// its allocations, since its interface says it to C++ only.
///
/// Beside it are the vocabulary, some megabytes, and the rows of logits beyond those that were reserved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Weights that are the file's pages, which the system may drop and read again, and which processes share.
    pub mapped_bytes: u64,
    /// Weights that were brought into another order for this machine's instruction set, beside the file's pages.
    pub repacked_bytes: u64,
    /// Cells, and states of recurrent layers.
    pub cache_bytes: u64,
    /// What is between layers, and the logits.
    pub compute_bytes: u64,
}

impl Footprint {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.mapped_bytes + self.repacked_bytes + self.cache_bytes + self.compute_bytes
    }

    /// Adds what was allocated during a call.
    pub(super) fn add(&mut self, heard: &Heard) {
        for line in &heard.lines {
            // "load_tensors:   CPU_Mapped model buffer size =    12.34 MiB"
            let Some((name, size)) = line.split_once(SIZE) else { continue };
            let Some(bytes) = mebibytes(size) else { continue };
            let part = match name.rsplit(' ').next() {
                Some("model") if name.contains("_Mapped ") => &mut self.mapped_bytes,
                Some("model") => &mut self.repacked_bytes,
                Some("KV" | "RS" | "state") => &mut self.cache_bytes,
                Some("compute" | "output") => &mut self.compute_bytes,
                _ => continue,
            };
            *part += bytes;
        }
    }
}

/// The bytes of "  12.34 MiB".
fn mebibytes(text: &str) -> Option<u64> {
    let size: f64 = text.trim().strip_suffix(" MiB")?.trim().parse().ok()?;
    (size.is_finite() && size >= 0.0).then_some((size * f64::from(1 << 20)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_summed_by_what_they_are_for() {
        let lines = [
            "load_tensors:   CPU_Mapped model buffer size =     2.00 MiB",
            "load_tensors:   CPU_REPACK model buffer size =     1.00 MiB",
            "llama_kv_cache:        CPU KV buffer size =     0.50 MiB",
            "llama_memory_recurrent:        CPU RS buffer size =     0.25 MiB",
            "sched_reserve:        CPU compute buffer size =     4.00 MiB",
            "llama_context:        CPU  output buffer size =     8.00 MiB",
            "llama_kv_cache: size =    0.50 MiB (   256 cells,   2 layers,  4/1 seqs), K (f16):    0.25 MiB, V (f16):    0.25 MiB",
            "x buffer size = much MiB",
        ];
        let mut footprint = Footprint::default();
        footprint.add(&Heard { lines: lines.map(str::to_owned).to_vec(), errors: Vec::new() });
        let expected =
            Footprint { mapped_bytes: 2 << 20, repacked_bytes: 1 << 20, cache_bytes: 3 << 18, compute_bytes: 12 << 20 };
        assert_eq!(footprint, expected);
        assert_eq!(footprint.bytes(), (15 << 20) + (3 << 18));
    }
}
