use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// The processor's own energy counters, as Linux shows them under `/sys/class/powercap`.
///
/// Only packages and, where the machine has them, their memory are summed: the domains overlap, so the cores', the
/// graphics' and the whole platform's counters would count the same joules twice, and so would `intel-rapl-mmio`, which
/// shows the package a second time.
#[derive(Debug, Clone)]
pub struct Rapl {
    zones: Vec<Zone>,
    joules: f64,
}

#[derive(Debug, Clone)]
struct Zone {
    counter: PathBuf,
    /// The counter starts again at 0 beyond this, in microjoules.
    range_microjoules: u64,
    last_microjoules: u64,
}

impl Rapl {
    /// Opens the counters under a folder such as `/sys/class/powercap`, or says that there are none (`None`).
    ///
    /// # Errors
    /// When there are counters that cannot be read; most systems let only root do so.
    pub fn open(powercap: &Path) -> Result<Option<Rapl>> {
        let entries = match fs::read_dir(powercap) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Sensor { path: powercap.to_owned(), source }),
        };
        let mut zones = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| Error::Sensor { path: powercap.to_owned(), source })?;
            if !entry.file_name().to_string_lossy().starts_with("intel-rapl:") {
                continue;
            }
            let folder = entry.path();
            let name = read(&folder.join("name"))?;
            let name = name.trim();
            if name.starts_with("package") || name == "dram" {
                zones.push(Zone::open(&folder)?);
            }
        }
        Ok((!zones.is_empty()).then_some(Rapl { zones, joules: 0.0 }))
    }

    /// Joules drawn by all packages and their memory since the counters were opened.
    ///
    /// A counter may wrap once between two readings, which at 200 W takes about twenty minutes.
    ///
    /// # Errors
    /// When a counter cannot be read; the next reading then covers the gap.
    pub fn joules(&mut self) -> Result<f64> {
        let readings = self.zones.iter().map(|zone| number(&zone.counter)).collect::<Result<Vec<u64>>>()?;
        for (zone, reading) in self.zones.iter_mut().zip(readings) {
            let microjoules = match reading.checked_sub(zone.last_microjoules) {
                Some(difference) => difference,
                None => (zone.range_microjoules.saturating_sub(zone.last_microjoules)).saturating_add(reading),
            };
            zone.last_microjoules = reading;
            self.joules += microjoules as f64 * 1e-6;
        }
        Ok(self.joules)
    }
}

impl Zone {
    fn open(folder: &Path) -> Result<Zone> {
        let counter = folder.join("energy_uj");
        let last_microjoules = number(&counter)?;
        Ok(Zone { counter, range_microjoules: number(&folder.join("max_energy_range_uj"))?, last_microjoules })
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Sensor { path: path.to_owned(), source })
}

fn number(path: &Path) -> Result<u64> {
    let text = read(path)?;
    text.trim().parse().map_err(|_| Error::SensorText { path: path.to_owned(), text: text.chars().take(80).collect() })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Writes one zone of a made-up `/sys/class/powercap`.
    pub(crate) fn zone(powercap: &Path, folder: &str, name: &str, microjoules: u64) {
        let folder = powercap.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        fs::write(folder.join("energy_uj"), format!("{microjoules}\n")).unwrap();
        fs::write(folder.join("max_energy_range_uj"), "262143328850\n").unwrap();
    }

    #[test]
    fn two_packages_and_their_memory_are_summed_and_nothing_twice() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        zone(root, "intel-rapl:0", "package-0", 1_000_000);
        zone(root, "intel-rapl:0:0", "core", 500_000);
        zone(root, "intel-rapl:0:1", "dram", 0);
        zone(root, "intel-rapl:1", "package-1", 262_143_000_000);
        zone(root, "intel-rapl:2", "psys", 7);
        zone(root, "intel-rapl-mmio:0", "package-0", 1_000_000);
        fs::create_dir(root.join("intel-rapl")).unwrap();
        let mut rapl = Rapl::open(root).unwrap().unwrap();
        assert_eq!(rapl.joules().unwrap(), 0.0);

        zone(root, "intel-rapl:0", "package-0", 3_000_000);
        zone(root, "intel-rapl:0:0", "core", 1_500_000);
        zone(root, "intel-rapl:0:1", "dram", 250_000);
        zone(root, "intel-rapl:1", "package-1", 671_150);
        zone(root, "intel-rapl:2", "psys", 9_000_000);
        // 2 J, 0.25 J, and over the counter's end 0.328850 + 0.671150 J.
        assert!((rapl.joules().unwrap() - 3.25).abs() < 1e-9);

        fs::write(root.join("intel-rapl:1/energy_uj"), "x").unwrap();
        zone(root, "intel-rapl:0", "package-0", 4_000_000);
        assert!(matches!(rapl.joules(), Err(Error::SensorText { .. })));
        fs::write(root.join("intel-rapl:1/energy_uj"), "671150").unwrap();
        assert!((rapl.joules().unwrap() - 4.25).abs() < 1e-9, "the reading after a failure covers the gap");
    }

    #[test]
    fn a_machine_without_counters_has_no_rapl() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Rapl::open(folder.path()).unwrap().is_none());
        assert!(Rapl::open(&folder.path().join("missing")).unwrap().is_none());
        zone(folder.path(), "intel-rapl:0", "psys", 1);
        assert!(Rapl::open(folder.path()).unwrap().is_none());
    }
}
