use wattle_core::{Energy, Label};

use crate::{
    cpu::HostCpu,
    measured::{HostInterval, Measured},
    rates::{Rates, scaled},
};

/// What all clocks and counters read at one instant; each only ever rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// A clock that nobody sets, in seconds.
    pub(crate) seconds: f64,
    /// The clock on the wall, in minutes since 1970 (UTC).
    pub(crate) minute: i64,
    /// The server's processor time.
    pub(crate) process_cpu_seconds: f64,
    /// The machine's processor time, where the sensor needs it.
    pub(crate) host_cpu: HostCpu,
    /// The machine's energy counters, where there are any.
    pub(crate) host_joules: f64,
}

/// What requests and jobs accounted for since the last interval was closed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Attributed {
    pub(crate) joules: f64,
    pub(crate) cpu_seconds: f64,
    /// The part of `cpu_seconds` that children spent and the server's own clock did not see.
    pub(crate) child_cpu_seconds: f64,
}

/// A closed interval. The books balance: what requests and jobs were charged, and `idle`, and `unattributed`, are
/// `ours_joules` and what [`Books::deficit_joules`] rose by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Interval {
    pub(crate) idle: Energy,
    pub(crate) unattributed: Energy,
    pub(crate) unattributed_cpu_seconds: f64,
    /// What the sensor said was ours.
    pub(crate) ours_joules: f64,
}

/// Splits what the sensor says, interval by interval.
#[derive(Debug)]
pub(crate) struct Books {
    tariff: Tariff,
    /// What processor time costs as long as the counters have not said so.
    estimate: Rates,
    last: Reading,
    joules: Remainder,
    cpu_seconds: Remainder,
    recent_attributed_joules: f64,
}

/// Where an interval's energy comes from.
#[derive(Debug)]
pub(crate) enum Tariff {
    /// The rates do not change: configured watts or a power model.
    Fixed,
    /// Energy counters.
    Measured(Measured),
}

impl Books {
    pub(crate) fn open(tariff: Tariff, estimate: Rates, first: Reading) -> Books {
        Books {
            tariff,
            estimate,
            last: first,
            joules: Remainder::default(),
            cpu_seconds: Remainder::default(),
            recent_attributed_joules: 0.0,
        }
    }

    /// What processor time is to be charged from now on.
    ///
    /// Measured rates move, so what was charged may turn out to be more than the counters then say. Such a deficit
    /// lowers the next rate by what repays it, at most by half, so that it cannot grow without end.
    pub(crate) fn rates(&self) -> Rates {
        let Tariff::Measured(measured) = &self.tariff else { return self.estimate.clone() };
        let Some(rate) = measured.joules_per_cpu_second() else { return self.estimate.clone() };
        let deficit = self.joules.deficit;
        let repaid =
            if self.recent_attributed_joules > 0.0 { (deficit / self.recent_attributed_joules).min(0.5) } else { 0.0 };
        measured_rates(measured.idle_watts(), rate * (1.0 - repaid))
    }

    /// Closes the interval since the last reading.
    pub(crate) fn close(&mut self, reading: &Reading, attributed: Attributed) -> Interval {
        let last = std::mem::replace(&mut self.last, *reading);
        let seconds = (reading.seconds - last.seconds).max(0.0);
        let own_cpu_seconds = (reading.process_cpu_seconds - last.process_cpu_seconds).max(0.0);
        let our_cpu_seconds = own_cpu_seconds + attributed.child_cpu_seconds;

        let (rates, static_joules, dynamic_joules) = match &mut self.tariff {
            Tariff::Fixed => {
                let rates = self.estimate.clone();
                let dynamic_joules = rates.dynamic_watts_per_cpu[1] * our_cpu_seconds;
                let static_joules = scaled(rates.static_watts, seconds);
                (rates, static_joules, dynamic_joules)
            }
            Tariff::Measured(measured) => {
                let split = measured.close(&HostInterval {
                    seconds,
                    joules: (reading.host_joules - last.host_joules).max(0.0),
                    busy_cpu_seconds: (reading.host_cpu.busy_seconds - last.host_cpu.busy_seconds).max(0.0),
                    total_cpu_seconds: (reading.host_cpu.total_seconds - last.host_cpu.total_seconds).max(0.0),
                    own_cpu_seconds,
                    child_cpu_seconds: attributed.child_cpu_seconds,
                });
                (measured_rates(measured.idle_watts(), 1.0), [split.static_joules; 3], split.dynamic_joules)
            }
        };

        let unattributed_joules = self.joules.settle(reading.minute, dynamic_joules, attributed.joules);
        self.recent_attributed_joules = self.recent_attributed_joules * 0.9 + attributed.joules * 0.1;
        // The remainder is as uncertain as the rates are.
        let unattributed = match rates.dynamic_watts_per_cpu {
            [_, likely, _] if likely > 0.0 => scaled(rates.dynamic_watts_per_cpu, unattributed_joules / likely),
            _ => [unattributed_joules; 3],
        };
        Interval {
            ours_joules: static_joules[1] + dynamic_joules,
            idle: rates.energy(static_joules),
            unattributed: rates.energy(unattributed),
            unattributed_cpu_seconds: self.cpu_seconds.settle(reading.minute, our_cpu_seconds, attributed.cpu_seconds),
        }
    }

    /// What was booked so far beyond what the sensor said was ours, in joules; later intervals repay it.
    #[cfg(test)]
    pub(crate) fn deficit_joules(&self) -> f64 {
        self.joules.deficit
    }
}

fn measured_rates(idle_watts: f64, joules_per_cpu_second: f64) -> Rates {
    Rates {
        static_watts: [idle_watts; 3],
        dynamic_watts_per_cpu: [joules_per_cpu_second; 3],
        label: Label::Measured,
        source: "rapl".into(),
    }
}

/// What is left over of ours once requests and jobs took their part.
///
/// A request is charged when it ends, and its processor time may have been booked as left over in earlier intervals. So
/// a negative remainder takes back what the present minute booked, and no more, since a minute's line in the ledger
/// must not fall below zero; the rest is a deficit that later remainders repay.
#[derive(Debug, Default)]
struct Remainder {
    minute: i64,
    booked: f64,
    deficit: f64,
}

impl Remainder {
    /// What to book: over time `booked + attributed = ours + deficit`.
    fn settle(&mut self, minute: i64, ours: f64, attributed: f64) -> f64 {
        if minute != self.minute {
            (self.minute, self.booked) = (minute, 0.0);
        }
        let due = ours - attributed - self.deficit;
        let booking = due.max(-self.booked);
        self.deficit = booking - due;
        self.booked += booking;
        booking
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PowerModel;

    const START: Reading = Reading {
        seconds: 0.0,
        minute: 0,
        process_cpu_seconds: 0.0,
        host_cpu: HostCpu { busy_seconds: 0.0, total_seconds: 0.0 },
        host_joules: 0.0,
    };

    fn model_rates() -> Rates {
        let model = PowerModel { name: "x".into(), min_watts: 0.5, max_watts: 2.5, cpus: 4, memory_gigabytes: 8.0 };
        crate::Sensor::Model(model).rates()
    }

    /// One interval of a made-up server on a made-up machine.
    #[derive(Debug, Clone)]
    struct Step {
        seconds: f64,
        idle_watts: f64,
        joules_per_cpu_second: f64,
        others_cpu_seconds: f64,
        own_cpu_seconds: f64,
        child_cpu_seconds: f64,
        /// The part of the own time, and of what is owed from earlier steps, that requests account for in this one.
        accounted: f64,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0.5..2.0, 20.0..60.0, 1.0..20.0, 0.0..4.0, 0.0..2.0, 0.0..2.0, prop_oneof![Just(0.0), 0.0..=1.0])
            .prop_map(|(seconds, idle_watts, joules_per_cpu_second, others, own, child, accounted)| Step {
                seconds,
                idle_watts,
                joules_per_cpu_second,
                others_cpu_seconds: others,
                own_cpu_seconds: own,
                child_cpu_seconds: child,
                accounted,
            });
        prop::collection::vec(step, 1..200)
    }

    /// Plays the steps and checks after each that the books balance.
    fn play(tariff: Tariff, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut books = Books::open(tariff, model_rates(), START);
        let mut reading = START;
        let (mut owed_cpu_seconds, mut charged, mut charged_cpu, mut our_cpu) = (0.0, 0.0, 0.0, 0.0);
        let (mut idle, mut unattributed, mut unattributed_cpu, mut ours) = (0.0, 0.0, 0.0, 0.0);
        let (mut minute, mut minutes_unattributed) = (0, 0.0);
        for step in steps {
            owed_cpu_seconds += step.own_cpu_seconds;
            let request_cpu_seconds = owed_cpu_seconds * step.accounted;
            owed_cpu_seconds -= request_cpu_seconds;
            let cpu_seconds = request_cpu_seconds + step.child_cpu_seconds;
            let attributed = Attributed {
                joules: books.rates().dynamic_energy(cpu_seconds).joules,
                cpu_seconds,
                child_cpu_seconds: step.child_cpu_seconds,
            };
            let busy = step.others_cpu_seconds + step.own_cpu_seconds + step.child_cpu_seconds;
            reading.seconds += step.seconds;
            reading.minute = (reading.seconds / 60.0) as i64;
            reading.process_cpu_seconds += step.own_cpu_seconds;
            reading.host_cpu.busy_seconds += busy;
            reading.host_cpu.total_seconds += step.seconds * 8.0;
            reading.host_joules += step.idle_watts * step.seconds + step.joules_per_cpu_second * busy;
            let interval = books.close(&reading, attributed);

            charged += attributed.joules;
            charged_cpu += cpu_seconds;
            our_cpu += step.own_cpu_seconds + step.child_cpu_seconds;
            idle += interval.idle.joules;
            unattributed += interval.unattributed.joules;
            unattributed_cpu += interval.unattributed_cpu_seconds;
            ours += interval.ours_joules;
            if minute != reading.minute {
                (minute, minutes_unattributed) = (reading.minute, 0.0);
            }
            minutes_unattributed += interval.unattributed.joules;

            let booked = charged + idle + unattributed;
            let sensed = ours + books.deficit_joules();
            prop_assert!((booked - sensed).abs() <= 1e-9 * sensed.max(1.0), "{booked} J booked, {sensed} J sensed");
            let sensed_cpu = our_cpu + books.cpu_seconds.deficit;
            prop_assert!((charged_cpu + unattributed_cpu - sensed_cpu).abs() <= 1e-9 * sensed_cpu.max(1.0));
            prop_assert!(minutes_unattributed >= -1e-9 * sensed.max(1.0), "a minute below zero");
            prop_assert!(books.deficit_joules() >= 0.0);
            for energy in [&interval.idle, &interval.unattributed] {
                let bounds = [energy.joules_low, energy.joules, energy.joules_high];
                prop_assert!(bounds.iter().all(|joules| joules.is_finite()));
            }
            if matches!(books.tariff, Tariff::Measured(_)) {
                prop_assert!(ours <= reading.host_joules * (1.0 + 1e-9), "more claimed than the counters said");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_books_balance_with_a_model(steps in steps()) {
            play(Tariff::Fixed, &steps)?;
        }

        #[test]
        fn the_books_balance_with_counters(steps in steps(), idle_watts in prop::option::of(0.0..50.0)) {
            play(Tariff::Measured(Measured::new(idle_watts)), &steps)?;
        }
    }

    #[test]
    fn what_requests_do_not_account_for_is_left_over() {
        let mut books = Books::open(Tariff::Fixed, model_rates(), START);
        let reading = Reading { seconds: 10.0, process_cpu_seconds: 3.0, ..START };
        let attributed = Attributed { joules: 7.0, cpu_seconds: 3.5, child_cpu_seconds: 2.0 };
        let interval = books.close(&reading, attributed);
        // 2 J for each of 5 s of processor time.
        assert_eq!((interval.unattributed.joules, interval.unattributed_cpu_seconds), (3.0, 1.5));
        assert_eq!((interval.unattributed.joules_low, interval.unattributed.joules_high), (1.5, 4.5));
        assert_eq!(interval.idle.joules, model_rates().static_watts[1] * 10.0);
        assert_eq!(books.deficit_joules(), 0.0);
    }

    #[test]
    fn a_request_over_many_intervals_takes_back_what_was_left_over() {
        let mut books = Books::open(Tariff::Fixed, model_rates(), START);
        let at = |seconds: f64, minute| Reading { seconds, minute, process_cpu_seconds: seconds, ..START };
        let mut left = |seconds, minute, joules| {
            let attributed = Attributed { joules, cpu_seconds: joules / 2.0, child_cpu_seconds: 0.0 };
            let interval = books.close(&at(seconds, minute), attributed);
            (interval.unattributed.joules, books.deficit_joules())
        };
        assert_eq!(left(1.0, 0, 0.0), (2.0, 0.0));
        assert_eq!(left(2.0, 0, 0.0), (2.0, 0.0));
        assert_eq!(left(3.0, 0, 6.0), (-4.0, 0.0), "within a minute it is taken back");
        assert_eq!(left(4.0, 0, 0.0), (2.0, 0.0));
        assert_eq!(left(5.0, 1, 4.0), (0.0, 2.0), "a minute's line does not fall below zero");
        assert_eq!(left(6.0, 1, 1.0), (0.0, 1.0));
        assert_eq!(left(7.0, 1, 0.0), (1.0, 0.0), "and the deficit is repaid");
    }

    #[test]
    fn a_load_that_swings_does_not_build_up_a_deficit() {
        let mut books = Books::open(Tariff::Measured(Measured::new(Some(40.0))), model_rates(), START);
        let mut reading = START;
        let mut highest: f64 = 0.0;
        for step in 0..5000 {
            // Few requests at 20 J for a second of processor time, then many at 5 J.
            let (cpu_seconds, rate) = if step % 20 < 10 { (0.1, 20.0) } else { (6.0, 5.0) };
            let joules = books.rates().dynamic_energy(cpu_seconds).joules;
            reading.seconds += 1.0;
            reading.minute = (reading.seconds / 60.0) as i64;
            reading.process_cpu_seconds += cpu_seconds;
            reading.host_cpu.busy_seconds += cpu_seconds;
            reading.host_cpu.total_seconds += 8.0;
            reading.host_joules += 40.0 + cpu_seconds * rate;
            books.close(&reading, Attributed { joules, cpu_seconds, child_cpu_seconds: 0.0 });
            highest = highest.max(books.deficit_joules());
        }
        assert!(highest < 200.0, "{highest} J");
        assert_eq!(books.rates().label, Label::Measured);
    }
}
