use serde::{Deserialize, Serialize};

use crate::{
    Range,
    cpu::{self, CpuModel},
    rates::with_error,
};

/// What a machine draws, reckoned from its processor and its memory:
/// `watts = cpus * (min + utilisation * (max - min)) + gigabytes * [0.04 .. 0.39]`.
///
/// The watts for each processor are those of Cloud Carbon Footprint's methodology ("Compute", average minimum and
/// maximum watts by microarchitecture). The linear model is the best of the public ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PowerModel {
    /// The row of the table, or why the default was taken.
    pub name: String,
    /// Watts of one processor without load.
    pub min_watts: f64,
    /// Watts of one processor under full load.
    pub max_watts: f64,
    /// Processors provisioned for this process.
    pub cpus: usize,
    /// Memory provisioned for this process, in gigabytes (1e9 bytes).
    pub memory_gigabytes: f64,
}

/// Public load models miss RAPL's traces by 33% to 52% on average: half is what a figure that nobody calibrated earns.
const MODEL_ERROR: f64 = 0.5;

/// Published figures for memory differ tenfold, in watts for a gigabyte.
const MEMORY_WATTS_LOW: f64 = 0.04;
const MEMORY_WATTS_HIGH: f64 = 0.39;
/// The likely draw of a byte of memory, in watts: the geometric mean of the published figures, which is the same factor
/// away from either end.
pub const MEMORY_WATTS_PER_BYTE: f64 = 0.125e-9;

impl PowerModel {
    /// The model of this machine; what cannot be read counts as unknown and is logged.
    pub fn detect() -> PowerModel {
        let cpu = CpuModel::read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the processor is unknown to the power model");
            CpuModel::default()
        });
        let memory_bytes = cpu::memory_bytes().unwrap_or_else(|error| {
            tracing::warn!(%error, "the memory's power is not counted");
            0
        });
        PowerModel::new(&cpu, cpu::cpu_count(), memory_bytes)
    }

    /// The model of a given machine.
    pub fn new(cpu: &CpuModel, cpus: usize, memory_bytes: u64) -> PowerModel {
        let row = Row::of(cpu);
        PowerModel {
            name: row.name.to_owned(),
            min_watts: row.min_watts,
            max_watts: row.max_watts,
            cpus,
            memory_gigabytes: memory_bytes as f64 / 1e9,
        }
    }

    /// What the machine draws without load, in watts.
    ///
    /// The memory's likely figure is the geometric mean of the published ones, the same factor away from either end;
    /// the arithmetic mean would be the high figure halved, since the low one hardly weighs.
    pub fn static_watts(&self) -> Range {
        let memory = [MEMORY_WATTS_LOW, (MEMORY_WATTS_LOW * MEMORY_WATTS_HIGH).sqrt(), MEMORY_WATTS_HIGH];
        memory.map(|watts| self.cpus as f64 * self.min_watts + self.memory_gigabytes * watts)
    }

    /// Joules for each second of processor time beyond the static watts.
    pub fn dynamic_watts_per_cpu(&self) -> Range {
        with_error(self.max_watts - self.min_watts, MODEL_ERROR)
    }
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    min_watts: f64,
    max_watts: f64,
}

const fn row(name: &'static str, min_watts: f64, max_watts: f64) -> Row {
    Row { name, min_watts, max_watts }
}

const EPYC_1: Row = row("EPYC gen 1", 0.82, 2.55);
const EPYC_2: Row = row("EPYC gen 2", 0.47, 1.69);
const EPYC_3: Row = row("EPYC gen 3", 0.45, 2.02);
const GRAVITON_2: Row = row("Graviton2 (as EPYC gen 2)", 0.47, 1.69);
const CASCADE_LAKE: Row = row("Cascade Lake", 0.64, 3.97);
const SKYLAKE: Row = row("Skylake", 0.65, 4.26);
const BROADWELL: Row = row("Broadwell", 0.71, 3.69);
const HASWELL: Row = row("Haswell", 1.0, 4.74);
const NEWER: Row = row("CPU newer than the table: default 0.74 to 3.5 W", 0.74, 3.5);
const UNKNOWN: Row = row("CPU not in the table: default 0.74 to 3.5 W", 0.74, 3.5);

impl Row {
    /// Finds the processor's row. Families and models are those that Linux prints, in decimal.
    fn of(cpu: &CpuModel) -> Row {
        match (cpu.vendor.as_str(), cpu.family, cpu.model) {
            // Naples, Rome, Milan; Genoa, Bergamo and the desktop's Zen 4 share the family with Milan.
            ("AuthenticAMD", 23, 1) => EPYC_1,
            ("AuthenticAMD", 23, 49) => EPYC_2,
            ("AuthenticAMD", 25, 1) => EPYC_3,
            ("AuthenticAMD", 25, 16..=31 | 96..=127 | 160..=175) => NEWER,
            ("AuthenticAMD", 26.., _) => NEWER,
            ("GenuineIntel", 6, 60 | 63 | 69 | 70) => HASWELL,
            ("GenuineIntel", 6, 61 | 71 | 79 | 86) => BROADWELL,
            ("GenuineIntel", 6, 78 | 94) => SKYLAKE,
            // Three generations of servers share this number; the stepping tells them apart (10 and up: Cooper Lake).
            ("GenuineIntel", 6, 85) => match cpu.stepping {
                0..=4 => SKYLAKE,
                5..=9 => CASCADE_LAKE,
                _ => NEWER,
            },
            // Ice Lake and later; Goldmont, Kaby, Coffee and Comet Lake have numbers in this range and are no newer.
            ("GenuineIntel", 6, 122 | 142 | 158 | 165 | 166) => UNKNOWN,
            ("GenuineIntel", 6, 106..) => NEWER,
            ("GenuineIntel", 18.., _) => NEWER,
            ("0x41", _, 0xd0c) => GRAVITON_2,
            // Neoverse V1, N2, V2, V3 and N3: Graviton3 and later, Axion, Cobalt, Grace.
            ("0x41", _, 0xd40 | 0xd49 | 0xd4f | 0xd83 | 0xd84 | 0xd8e) => NEWER,
            _ => UNKNOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x86(vendor: &str, family: u32, model: u32, stepping: u32) -> String {
        format!(
            "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: A CPU @ 2: GHz\nstepping\t: {stepping}\nflags\t\t: fpu\n\nprocessor\t: 1\nmodel\t\t: 9\n"
        )
    }

    #[test]
    fn processors_are_told_apart_by_what_linux_prints() {
        let arm = |part: &str| format!("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {part}\n");
        for (text, name) in [
            (x86("AuthenticAMD", 23, 1, 2), "EPYC gen 1"),
            (x86("AuthenticAMD", 23, 49, 0), "EPYC gen 2"),
            (x86("AuthenticAMD", 25, 1, 1), "EPYC gen 3"),
            (x86("AuthenticAMD", 25, 17, 1), NEWER.name),
            (x86("AuthenticAMD", 26, 2, 1), NEWER.name),
            (x86("AuthenticAMD", 25, 33, 0), UNKNOWN.name),
            (x86("GenuineIntel", 6, 63, 2), "Haswell"),
            (x86("GenuineIntel", 6, 79, 1), "Broadwell"),
            (x86("GenuineIntel", 6, 85, 4), "Skylake"),
            (x86("GenuineIntel", 6, 85, 7), "Cascade Lake"),
            (x86("GenuineIntel", 6, 85, 11), NEWER.name),
            (x86("GenuineIntel", 6, 106, 6), NEWER.name),
            (x86("GenuineIntel", 6, 158, 10), UNKNOWN.name),
            (x86("GenuineIntel", 6, 207, 2), NEWER.name),
            (x86("GenuineIntel", 6, 45, 2), UNKNOWN.name),
            (arm("0xd0c"), "Graviton2 (as EPYC gen 2)"),
            (arm("0xd4f"), NEWER.name),
            (String::new(), UNKNOWN.name),
        ] {
            assert_eq!(PowerModel::new(&CpuModel::parse(&text), 1, 0).name, name, "{text}");
        }
    }

    #[test]
    fn watts_follow_the_formula_and_stay_in_order() {
        let model = PowerModel { name: "x".into(), min_watts: 0.5, max_watts: 2.5, cpus: 4, memory_gigabytes: 10.0 };
        let [low, mid, high] = model.static_watts();
        assert!((low - 2.4).abs() < 1e-12 && (high - 5.9).abs() < 1e-12 && (mid - 3.249).abs() < 1e-3);
        assert_eq!(model.dynamic_watts_per_cpu(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn this_machine_has_a_model() {
        let model = PowerModel::detect();
        assert!(model.min_watts > 0.0 && model.max_watts > model.min_watts && model.cpus > 0);
    }
}
