use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_core::Label;

use crate::{
    Error, PowerModel, Range, Rapl, Result, cpu,
    rates::{Rates, with_error},
};

/// What says how much the machine draws.
#[derive(Debug, Clone)]
pub enum Sensor {
    /// The processor's energy counters: measured.
    Rapl(Rapl),
    /// Watts that the operator read off a wall meter: estimated, straight between the two.
    Configured {
        /// The whole machine without load, in watts.
        idle_watts: f64,
        /// The whole machine with all processors busy, in watts.
        full_watts: f64,
    },
    /// Published figures for this kind of processor: estimated.
    Model(PowerModel),
}

/// How the sensor is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorConfig {
    /// Where Linux shows the energy counters.
    pub powercap: PathBuf,
    /// The whole machine without load, in watts. With the energy counters it replaces what is learnt from quiet times.
    pub idle_watts: Option<f64>,
    /// The whole machine with all processors busy, in watts. Given with `idle_watts`, the two replace every sensor.
    pub full_watts: Option<f64>,
    /// How often the sensor is read, in milliseconds; at least 10.
    pub interval_ms: u64,
}

/// What the meter reckons with at present, for people to see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensorDescription {
    /// What says so, for example `rapl` or `cpu model: EPYC gen 3`.
    pub source: String,
    /// Measured or estimated.
    pub label: Label,
    /// Drawn without any load, in watts: low, likely, high.
    pub static_watts: Range,
    /// Drawn by one busy processor beyond that, in watts (joules for a second of processor time): low, likely, high.
    pub dynamic_watts_per_cpu: Range,
}

/// The linear load model's mean error against RAPL; what remains once the operator gave both its ends.
const LINEAR_MODEL_ERROR: f64 = 0.33;

/// The shortest interval between two readings, in milliseconds; the machine's processor time moves in steps of 10.
const MIN_INTERVAL_MS: u64 = 10;

impl Default for SensorConfig {
    fn default() -> SensorConfig {
        SensorConfig {
            powercap: PathBuf::from("/sys/class/powercap"),
            idle_watts: None,
            full_watts: None,
            interval_ms: 1000,
        }
    }
}

impl SensorConfig {
    /// Checks that the values make sense together.
    ///
    /// # Errors
    /// `InvalidConfig`, with what to change.
    pub fn check(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::InvalidConfig(text));
        for (key, watts) in [("idle_watts", self.idle_watts), ("full_watts", self.full_watts)] {
            if let Some(watts) = watts
                && !(watts.is_finite() && watts >= 0.0)
            {
                return invalid(format!("{key} is {watts}: give watts of 0 or more"));
            }
        }
        match (self.idle_watts, self.full_watts) {
            (None, Some(_)) => invalid("full_watts is given without idle_watts: give both".into()),
            (Some(idle), Some(full)) if full < idle => {
                invalid(format!("full_watts ({full}) is less than idle_watts ({idle}): give the larger as full_watts"))
            }
            _ if self.interval_ms < MIN_INTERVAL_MS => {
                invalid(format!("interval_ms is {}: give {MIN_INTERVAL_MS} or more", self.interval_ms))
            }
            _ => Ok(()),
        }
    }
}

impl Sensor {
    /// The best sensor that there is: the operator's watts, else the energy counters, else the power model. Counters
    /// that are there and cannot be read are logged and passed over.
    ///
    /// # Errors
    /// `InvalidConfig` when the configuration makes no sense, also when the idle watts stand alone without counters.
    pub fn detect(config: &SensorConfig) -> Result<Sensor> {
        config.check()?;
        if let (Some(idle_watts), Some(full_watts)) = (config.idle_watts, config.full_watts) {
            return Ok(Sensor::Configured { idle_watts, full_watts });
        }
        // The counters are of the whole machine, so they are of no use without its processor time.
        match Rapl::open(&config.powercap).and_then(|rapl| cpu::host_cpu().map(|_| rapl)) {
            Ok(Some(rapl)) => return Ok(Sensor::Rapl(rapl)),
            Ok(None) => {}
            Err(error) => tracing::warn!(
                %error,
                "the energy counters are there and cannot be read, so energy is estimated: let the server read them to have it measured"
            ),
        }
        if config.idle_watts.is_some() {
            return Err(Error::InvalidConfig(
                "idle_watts alone needs energy counters that can be read, and there are none here: give full_watts too"
                    .into(),
            ));
        }
        Ok(Sensor::Model(PowerModel::detect()))
    }

    /// What processor time costs. With energy counters it is the model's estimate, good until they have been read for
    /// long enough.
    pub(crate) fn rates(&self) -> Rates {
        match self {
            Sensor::Configured { idle_watts, full_watts } => Rates {
                static_watts: [*idle_watts; 3],
                dynamic_watts_per_cpu: with_error(
                    (full_watts - idle_watts) / cpu::cpu_count() as f64,
                    LINEAR_MODEL_ERROR,
                ),
                label: Label::Estimated,
                source: "configured watts".into(),
            },
            Sensor::Rapl(_) => model_rates(&PowerModel::detect()),
            Sensor::Model(model) => model_rates(model),
        }
    }
}

fn model_rates(model: &PowerModel) -> Rates {
    Rates {
        static_watts: model.static_watts(),
        dynamic_watts_per_cpu: model.dynamic_watts_per_cpu(),
        label: Label::Estimated,
        source: format!("cpu model: {}", model.name).into(),
    }
}

impl From<Rates> for SensorDescription {
    fn from(rates: Rates) -> SensorDescription {
        SensorDescription {
            source: rates.source.to_string(),
            label: rates.label,
            static_watts: rates.static_watts,
            dynamic_watts_per_cpu: rates.dynamic_watts_per_cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::rapl::tests::zone;

    #[test]
    fn the_best_sensor_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = SensorConfig { powercap: folder.path().to_owned(), ..SensorConfig::default() };
        assert!(matches!(Sensor::detect(&config).unwrap(), Sensor::Model(_)));

        let idle_alone = SensorConfig { idle_watts: Some(50.0), ..config.clone() };
        assert!(matches!(Sensor::detect(&idle_alone), Err(Error::InvalidConfig(_))));

        zone(folder.path(), "intel-rapl:0", "package-0", 1);
        assert!(matches!(Sensor::detect(&config).unwrap(), Sensor::Rapl(_)));
        assert!(matches!(Sensor::detect(&idle_alone).unwrap(), Sensor::Rapl(_)));

        // Root reads everything, so an unreadable counter is played by a folder in its place.
        let counter = folder.path().join("intel-rapl:0/energy_uj");
        fs::remove_file(&counter).unwrap();
        fs::create_dir(&counter).unwrap();
        assert!(matches!(Sensor::detect(&config).unwrap(), Sensor::Model(_)));

        (config.idle_watts, config.full_watts) = (Some(50.0), Some(150.0));
        let sensor = Sensor::detect(&config).unwrap();
        assert!(matches!(sensor, Sensor::Configured { .. }));
        let rates = sensor.rates();
        assert_eq!(rates.static_watts, [50.0; 3]);
        assert!((rates.dynamic_watts_per_cpu[1] - 100.0 / cpu::cpu_count() as f64).abs() < 1e-12);
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_refused() {
        let config = |idle_watts, full_watts, interval_ms| {
            SensorConfig { idle_watts, full_watts, interval_ms, ..SensorConfig::default() }.check()
        };
        assert!(config(None, None, 1000).is_ok());
        assert!(config(Some(10.0), None, 1000).is_ok());
        for refused in [
            config(None, Some(10.0), 1000),
            config(Some(20.0), Some(10.0), 1000),
            config(Some(-1.0), None, 1000),
            config(Some(f64::NAN), Some(1.0), 1000),
            config(None, None, 0),
        ] {
            assert!(matches!(refused, Err(Error::InvalidConfig(_))));
        }
    }
}
