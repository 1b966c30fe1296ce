//! A shadow: it gets copies of the calls that the stable revision answers, and its answers are compared and forgotten.
//!
//! It never holds up an answer: a copy is made only where there is a place for it, shares the numbers with the call, and is
//! computed when a processor has nothing else to do. What finds no place or no processor is dropped and counted.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use wattle_engine::{Data, Tensor, in_order};

use crate::{Context, Server, replica::Served, server::Inner};

/// Copies that wait at most.
const MOST_COPIES: usize = 64;
/// The most bytes that all waiting copies of one shadow take, 64 MiB.
const MOST_BYTES: u32 = 64 << 20;
/// Numbers are the same when they differ by less than this part of them, or of 1 where they are smaller.
const TOLERANCE: f64 = 1e-3;

/// How a shadow's answers compare with those that were given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// The same, but for rounding.
    pub same: u64,
    /// Other values, other shapes, or an output that is absent.
    pub different: u64,
    /// It gave none.
    pub failed: u64,
    /// It was not asked, since the machine had other things to do.
    pub dropped: u64,
}

/// A revision that is tried on copies.
pub(crate) struct Shadow {
    served: Arc<Served>,
    copies: mpsc::Sender<Copy>,
    room: Arc<Semaphore>,
    counts: Arc<Counts>,
}

/// A place for a copy, taken before there is one.
pub(crate) struct Place<'a> {
    slot: mpsc::Permit<'a, Copy>,
    room: OwnedSemaphorePermit,
    inputs: Vec<Tensor>,
}

/// A call and what was answered.
struct Copy {
    inputs: Vec<Tensor>,
    answer: Vec<Tensor>,
    _room: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Counts {
    same: AtomicU64,
    different: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Shadow {
    /// Begins to follow; it ends when this is dropped.
    pub(crate) fn follow(served: Arc<Served>, server: &Server) -> Shadow {
        let (copies, coming) = mpsc::channel(MOST_COPIES);
        let counts = Arc::<Counts>::default();
        tokio::spawn(compare(Arc::clone(&served), Arc::downgrade(&server.inner), coming, Arc::clone(&counts)));
        Shadow { served, copies, room: Arc::new(Semaphore::new(MOST_BYTES as usize)), counts }
    }

    pub(crate) fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// A copy of these inputs, which come back in a form that is shared with it; without one where there is no place.
    pub(crate) fn copy(&self, inputs: Vec<Tensor>) -> (Vec<Tensor>, Option<Place<'_>>) {
        let bytes: usize = inputs.iter().map(bytes_of).sum();
        let room =
            u32::try_from(bytes).ok().and_then(|bytes| Arc::clone(&self.room).try_acquire_many_owned(bytes).ok());
        match (room, self.copies.try_reserve()) {
            (Some(room), Ok(slot)) => {
                let inputs: Vec<Tensor> = inputs.into_iter().map(Tensor::shared).collect();
                (inputs.clone(), Some(Place { slot, room, inputs }))
            }
            _ => {
                self.counts.dropped.fetch_add(1, Relaxed);
                (inputs, None)
            }
        }
    }

    pub(crate) fn compared(&self) -> Compared {
        Compared {
            same: self.counts.same.load(Relaxed),
            different: self.counts.different.load(Relaxed),
            failed: self.counts.failed.load(Relaxed),
            dropped: self.counts.dropped.load(Relaxed),
        }
    }
}

impl Place<'_> {
    /// Sends the copy off with what was answered, which comes back in a form that is shared with it.
    pub(crate) fn send(self, answer: Vec<Tensor>) -> Vec<Tensor> {
        let answer: Vec<Tensor> = answer.into_iter().map(Tensor::shared).collect();
        self.slot.send(Copy { inputs: self.inputs, answer: answer.clone(), _room: self.room });
        answer
    }
}

/// Computes one copy after the other, as long as the server is there.
async fn compare(served: Arc<Served>, server: Weak<Inner>, mut coming: mpsc::Receiver<Copy>, counts: Arc<Counts>) {
    let context = Context::of_copy();
    while let Some(Copy { inputs, answer, _room }) = coming.recv().await {
        let Some(inner) = server.upgrade() else { return };
        let server = Server { inner };
        let counter = match server.inner.admission.is_idle() {
            false => &counts.dropped,
            true => match in_order(&served.signature, inputs) {
                Err(_) => &counts.failed,
                Ok(inputs) => match server.compute(&served, &context, inputs, 0).await {
                    Err(_) => &counts.failed,
                    Ok(own) if same(&answer, &own.outputs) => &counts.same,
                    Ok(_) => &counts.different,
                },
            },
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// Whether every output that was answered is there, and the same.
fn same(answer: &[Tensor], own: &[Tensor]) -> bool {
    answer
        .iter()
        .all(|output| own.iter().any(|other| other.name == output.name && output.is_close_to(other, TOLERANCE)))
}

fn bytes_of(tensor: &Tensor) -> usize {
    match &tensor.data {
        Data::Bytes(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
        numbers => numbers.len() * numbers.datatype().size().unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tensor(name: &str, values: &[f64]) -> Tensor {
        Tensor::new(name, vec![values.len()], Data::Fp64(values.to_vec().into())).unwrap()
    }

    #[test]
    fn answers_are_the_same_but_for_rounding() {
        let answer = [tensor("y", &[1000.0, f64::NAN, 0.0])];
        assert!(same(&answer, &[tensor("p", &[1.0]), tensor("y", &[1000.5, f64::NAN, 1e-9])]), "further outputs are");
        for other in [
            vec![tensor("y", &[1002.0, f64::NAN, 0.0])],
            vec![tensor("y", &[1000.0, 0.0, 0.0])],
            vec![tensor("y", &[1000.0, f64::NAN])],
            vec![tensor("z", &[1000.0, f64::NAN, 0.0])],
            vec![Tensor::new("y", vec![3], Data::Fp32(vec![1000.0, f32::NAN, 0.0].into())).unwrap()],
            vec![],
        ] {
            assert!(!same(&answer, &other), "{other:?}");
        }
        let label = |text: &str| Tensor::new("label", vec![1], Data::Bytes(vec![text.into()])).unwrap();
        assert!(same(&[label("Gentoo")], &[label("Gentoo")]) && !same(&[label("Gentoo")], &[label("Adelie")]));
    }

    #[test]
    fn a_copy_takes_room_for_all_that_it_holds() {
        assert_eq!(bytes_of(&tensor("x", &[1.0, 2.0])), 16);
        let texts = Tensor::new("x", vec![2], Data::Bytes(vec!["ab".into(), String::new()])).unwrap();
        assert_eq!(bytes_of(&texts), 2 + 2 * size_of::<String>());
    }
}
