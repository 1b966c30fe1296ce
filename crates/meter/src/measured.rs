use std::collections::VecDeque;

/// Shares what the energy counters of the whole machine say between its idling, us, and everybody else.
///
/// - Static energy is the idle watts times the interval. They come from the operator, or are the lowest watts seen in
///   the last hour of quiet intervals (less than 5% of the processors' time busy); until there was one they count
///   as 0, and all energy as dynamic.
/// - Of the dynamic energy ours is our part of the machine's busy processor time. Children report their time late, so
///   what nobody claimed stays claimable, and so does a claim that found nothing; both halve with each interval.
///   What we claim in sum is never more than the counters said.
#[derive(Debug)]
pub(crate) struct Measured {
    idle: IdleWatts,
    unclaimed_joules: f64,
    unclaimed_cpu_seconds: f64,
    backlog_cpu_seconds: f64,
    recent_joules: f64,
    recent_cpu_seconds: f64,
    joules_per_cpu_second: Option<f64>,
}

/// What the clocks and counters moved by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostInterval {
    pub(crate) seconds: f64,
    pub(crate) joules: f64,
    pub(crate) busy_cpu_seconds: f64,
    pub(crate) total_cpu_seconds: f64,
    /// The server's processor time.
    pub(crate) own_cpu_seconds: f64,
    /// What children reported, perhaps from earlier intervals.
    pub(crate) child_cpu_seconds: f64,
}

/// What of an interval's energy is ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    pub(crate) static_joules: f64,
    pub(crate) dynamic_joules: f64,
}

/// Below this part of the processors' time an interval is quiet.
const QUIET: f64 = 0.05;

/// How much of the past weighs on, in each interval, in what processor time is found to cost.
const MEMORY: f64 = 0.9;

/// The machine's clock moves in steps of 10 ms: less time than this says nothing about its cost.
const MIN_CPU_SECONDS: f64 = 0.02;

impl Measured {
    pub(crate) fn new(idle_watts: Option<f64>) -> Measured {
        Measured {
            idle: IdleWatts { configured: idle_watts, quiet: VecDeque::new(), quiet_seconds: 0.0 },
            unclaimed_joules: 0.0,
            unclaimed_cpu_seconds: 0.0,
            backlog_cpu_seconds: 0.0,
            recent_joules: 0.0,
            recent_cpu_seconds: 0.0,
            joules_per_cpu_second: None,
        }
    }

    /// Joules for a second of processor time, once enough was seen.
    pub(crate) fn joules_per_cpu_second(&self) -> Option<f64> {
        self.joules_per_cpu_second
    }

    /// The machine's watts without load, 0 while unknown.
    pub(crate) fn idle_watts(&self) -> f64 {
        self.idle.watts().unwrap_or(0.0)
    }

    /// Closes an interval.
    pub(crate) fn close(&mut self, interval: &HostInterval) -> Split {
        // The machine's time is sampled and may miss short bursts which our own, finer clock saw.
        let busy_cpu_seconds = interval.busy_cpu_seconds.max(interval.own_cpu_seconds);
        let was_known = self.idle.watts().is_some();
        if busy_cpu_seconds < QUIET * interval.total_cpu_seconds && interval.seconds > 0.0 {
            self.idle.observe(interval.seconds, interval.joules / interval.seconds);
        }
        let static_joules = (self.idle_watts() * interval.seconds).min(interval.joules);
        let dynamic_joules = interval.joules - static_joules;

        // What was learnt while idle watts counted as dynamic is worth nothing once they are known.
        let memory = if was_known == self.idle.watts().is_some() { MEMORY } else { 0.0 };
        self.recent_joules = self.recent_joules * memory + dynamic_joules;
        self.recent_cpu_seconds = self.recent_cpu_seconds * memory + busy_cpu_seconds;
        if self.recent_cpu_seconds >= MIN_CPU_SECONDS {
            self.joules_per_cpu_second = Some(self.recent_joules / self.recent_cpu_seconds);
        }

        let wanted = interval.own_cpu_seconds + interval.child_cpu_seconds + self.backlog_cpu_seconds;
        let pool_joules = self.unclaimed_joules + dynamic_joules;
        let pool_cpu_seconds = self.unclaimed_cpu_seconds + busy_cpu_seconds;
        let claimed = wanted.min(pool_cpu_seconds);
        let ours = if pool_cpu_seconds > 0.0 { pool_joules * (claimed / pool_cpu_seconds) } else { 0.0 };
        self.unclaimed_joules = (pool_joules - ours) / 2.0;
        self.unclaimed_cpu_seconds = (pool_cpu_seconds - claimed) / 2.0;
        self.backlog_cpu_seconds = (wanted - claimed) / 2.0;
        Split { static_joules, dynamic_joules: ours }
    }
}

/// The lowest watts of the last hour of quiet intervals. Only quiet time pushes older readings out, so that a busy
/// day does not make the idle watts unknown.
#[derive(Debug)]
struct IdleWatts {
    configured: Option<f64>,
    /// When seen (in seconds of quiet time) and how many watts, both ascending: the lowest is in front.
    quiet: VecDeque<(f64, f64)>,
    quiet_seconds: f64,
}

const IDLE_WINDOW_SECONDS: f64 = 3600.0;

impl IdleWatts {
    fn watts(&self) -> Option<f64> {
        self.configured.or(self.quiet.front().map(|&(_, watts)| watts))
    }

    fn observe(&mut self, seconds: f64, watts: f64) {
        self.quiet_seconds += seconds;
        while self.quiet.back().is_some_and(|&(_, other)| other >= watts) {
            self.quiet.pop_back();
        }
        self.quiet.push_back((self.quiet_seconds, watts));
        while self.quiet.front().is_some_and(|&(at, _)| at < self.quiet_seconds - IDLE_WINDOW_SECONDS) {
            self.quiet.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET_SECOND: HostInterval = HostInterval {
        seconds: 1.0,
        joules: 40.0,
        busy_cpu_seconds: 0.0,
        total_cpu_seconds: 8.0,
        own_cpu_seconds: 0.0,
        child_cpu_seconds: 0.0,
    };

    #[test]
    fn idle_watts_are_the_lowest_of_quiet_times() {
        let mut measured = Measured::new(None);
        let busy = HostInterval { joules: 100.0, busy_cpu_seconds: 4.0, own_cpu_seconds: 1.0, ..QUIET_SECOND };
        let split = measured.close(&busy);
        assert_eq!((split.static_joules, split.dynamic_joules), (0.0, 25.0));
        for joules in [42.0, 40.0, 41.0] {
            measured.close(&HostInterval { joules, ..QUIET_SECOND });
        }
        assert_eq!(measured.idle_watts(), 40.0);
        let split = measured.close(&busy);
        assert_eq!(split.static_joules, 40.0);
        for _ in 0..3602 {
            measured.close(&HostInterval { joules: 44.0, ..QUIET_SECOND });
        }
        assert_eq!(measured.idle_watts(), 44.0, "an hour later the old figure is forgotten");
        assert!(measured.idle.quiet.len() < 10);
    }

    #[test]
    fn the_operators_idle_watts_come_first() {
        let mut measured = Measured::new(Some(30.0));
        assert_eq!(measured.close(&QUIET_SECOND).static_joules, 30.0);
        assert_eq!(measured.close(&HostInterval { joules: 10.0, ..QUIET_SECOND }).static_joules, 10.0);
    }

    #[test]
    fn processor_time_gets_its_price_from_the_counters() {
        let mut measured = Measured::new(Some(40.0));
        assert_eq!(measured.joules_per_cpu_second(), None);
        for _ in 0..100 {
            let split = measured.close(&HostInterval {
                joules: 60.0,
                busy_cpu_seconds: 2.0,
                own_cpu_seconds: 0.5,
                ..QUIET_SECOND
            });
            assert!((split.dynamic_joules - 5.0).abs() < 1e-9);
        }
        assert!((measured.joules_per_cpu_second().unwrap_or(0.0) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_childs_late_report_claims_what_was_left_over() {
        let mut measured = Measured::new(Some(40.0));
        let busy = HostInterval { joules: 60.0, busy_cpu_seconds: 2.0, ..QUIET_SECOND };
        assert_eq!(measured.close(&busy).dynamic_joules, 0.0);
        let late = measured.close(&HostInterval { child_cpu_seconds: 3.0, ..busy });
        assert!((late.dynamic_joules - 30.0).abs() < 1e-9);
        let never = measured.close(&HostInterval { child_cpu_seconds: 1e6, ..busy });
        assert!((never.dynamic_joules - 20.0).abs() < 1e-9, "no more is claimed than was there");
    }
}
