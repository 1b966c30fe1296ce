use wattle_core::{Activity, Label, Usage};

/// What was used for one activity since the server started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Total {
    /// What for.
    pub activity: Activity,
    /// How the energy is known.
    pub label: Label,
    /// Energy, in joules.
    pub joules: f64,
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
}

/// Sums since the server started, which never fall.
#[derive(Debug, Default)]
pub(crate) struct Totals([[Sum; LABELS.len()]; ACTIVITIES.len()]);

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    joules: Rising,
    cpu_seconds: Rising,
}

/// A sum and the most that it has been. Within a minute the books may take back some of what nothing accounted for; who
/// reads a counter takes a fall for a restart, so the counter waits until the sum has caught up.
#[derive(Debug, Default, Clone, Copy)]
struct Rising {
    sum: f64,
    most: f64,
}

/// In the order of their places.
const ACTIVITIES: [Activity; 5] =
    [Activity::Predict, Activity::Load, Activity::Train, Activity::Idle, Activity::Unattributed];
const LABELS: [Label; 2] = [Label::Measured, Label::Estimated];

fn place(activity: Activity, label: Label) -> (usize, usize) {
    let activity = match activity {
        Activity::Predict => 0,
        Activity::Load => 1,
        Activity::Train => 2,
        Activity::Idle => 3,
        Activity::Unattributed => 4,
    };
    (activity, usize::from(label == Label::Estimated))
}

impl Totals {
    pub(crate) fn add(&mut self, usage: &Usage) {
        let (activity, label) = place(usage.activity, usage.energy.label);
        let sum = &mut self.0[activity][label];
        sum.joules.add(usage.energy.joules);
        sum.cpu_seconds.add(usage.cpu_seconds);
    }

    /// Those that are not zero.
    pub(crate) fn list(&self) -> Vec<Total> {
        let all = ACTIVITIES.into_iter().flat_map(|activity| LABELS.map(|label| (activity, label)));
        all.map(|(activity, label)| {
            let (row, column) = place(activity, label);
            let sum = &self.0[row][column];
            Total { activity, label, joules: sum.joules.most, cpu_seconds: sum.cpu_seconds.most }
        })
        .filter(|total| total.joules > 0.0 || total.cpu_seconds > 0.0)
        .collect()
    }
}

impl Rising {
    fn add(&mut self, amount: f64) {
        self.sum += amount;
        self.most = self.most.max(self.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pending::tests::request;

    #[test]
    fn every_activity_and_label_has_its_place() {
        let places = ACTIVITIES.into_iter().flat_map(|activity| LABELS.map(|label| place(activity, label)));
        assert!(places.eq((0..ACTIVITIES.len()).flat_map(|row| [(row, 0), (row, 1)])));
    }

    #[test]
    fn what_is_taken_back_does_not_make_a_total_fall() {
        let mut totals = Totals::default();
        let mut told = Vec::new();
        for joules in [2.0, -1.5, 1.0, 1.0] {
            let mut usage = request("a");
            usage.activity = Activity::Unattributed;
            usage.energy.joules = joules;
            totals.add(&usage);
            told.push(totals.list()[0].joules);
        }
        assert_eq!(told, [2.0, 2.0, 2.0, 2.5]);
        assert_eq!(totals.list().len(), 1);
        assert_eq!(totals.list()[0].cpu_seconds, 0.5);
    }
}
