//! A call of a pipeline: its steps level by level, those of a level at the same time.

use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, try_join_all};
use wattle_core::Signature;
use wattle_engine::{Tensor, in_order};

use crate::{
    Context, Error, Result, Server,
    account::Batch,
    batch::{Answered, rows_of},
    pipeline::{Pipeline, Source, WiredStep},
    queue,
    replica::Served,
};

/// How deep pipelines may stand in pipelines. One that calls itself by way of others is told so.
const MAX_DEPTH: usize = 8;

impl Server {
    /// The inputs and outputs that a pipeline has by the deployments that are there now.
    ///
    /// # Errors
    /// As for a specification that cannot be wired; [`Error::NotFound`] for a deployment that is not there.
    pub fn pipeline_signature(&self, pipeline: &Pipeline) -> Result<Signature> {
        Ok(pipeline.wire(|name| Ok(self.find(Some(name))?.signature().clone()))?.0)
    }

    /// Has inputs that fit computed, whatever computes them.
    pub(crate) async fn compute(
        &self,
        served: &std::sync::Arc<Served>,
        context: &Context,
        inputs: Vec<Tensor>,
        depth: usize,
    ) -> Result<Answered> {
        match &served.pipeline {
            None => queue::submit(served, &self.inner.admission, context, inputs).await,
            Some(pipeline) => self.run_pipeline(served, pipeline, context, inputs, depth).await,
        }
    }

    fn run_pipeline<'a>(
        &'a self,
        served: &'a Served,
        pipeline: &'a Pipeline,
        context: &'a Context,
        inputs: Vec<Tensor>,
        depth: usize,
    ) -> BoxFuture<'a, Result<Answered>> {
        async move {
            if depth >= MAX_DEPTH {
                let reason = format!("pipelines stand in each other deeper than {MAX_DEPTH}: does one call itself?");
                return Err(Error::Load { deployment: served.name.to_string(), reason });
            }
            let started = Instant::now();
            let rows = rows_of(&inputs);
            let _computing = served.computing(1);
            let unwired = |error: Error| Error::Load { deployment: served.name.to_string(), reason: error.to_string() };
            let signature_of = |name: &_| Ok(self.find(Some(name))?.signature().clone());
            let (_, wired) = pipeline.wire(signature_of).map_err(unwired)?;
            // Whoever takes a tensor shares its numbers with the others who do.
            let inputs: Vec<Tensor> = inputs.into_iter().map(Tensor::shared).collect();
            let mut made: Vec<Vec<Tensor>> = vec![Vec::new(); wired.steps.len()];
            let mut sum = Answered::nothing();
            for level in 0..=wired.steps.iter().map(|step| step.level).max().unwrap_or(0) {
                let steps = wired.steps.iter().enumerate().filter(|(_, step)| step.level == level);
                let answers = steps.map(|(index, step)| {
                    let inputs =
                        step.inputs.iter().map(|(name, source)| take(source, &inputs, &made).map(|t| t.named(name)));
                    let inputs: Result<Vec<Tensor>> = inputs.collect();
                    async move { Ok::<_, Error>((index, self.run_step(step, context, inputs?, depth).await?)) }
                });
                let answers = try_join_all(answers.collect::<Vec<_>>()).await?;
                sum.add_longest(&answers);
                for (index, answered) in answers {
                    made[index] = answered.outputs.into_iter().map(Tensor::shared).collect();
                }
            }
            let outputs =
                wired.outputs.iter().map(|(name, source)| take(source, &inputs, &made).map(|t| t.named(name)));
            sum.outputs = outputs.collect::<Result<_>>()?;
            // The steps' own deployments have paid for what was computed.
            served.account(&Batch::of_one(rows, context.copy, 0.0, started.elapsed()));
            Ok(sum)
        }
        .boxed()
    }

    async fn run_step(
        &self,
        step: &WiredStep,
        context: &Context,
        inputs: Vec<Tensor>,
        depth: usize,
    ) -> Result<Answered> {
        let told = |error: Error| match error {
            Error::Invalid(text) => Error::Invalid(format!("step {}: {text}", step.deployment)),
            Error::Run(text) => Error::Run(format!("step {}: {text}", step.deployment)),
            other => other,
        };
        let replica = self.find(Some(&step.deployment))?.route(context.key.as_deref());
        let served = replica.served();
        served.touch();
        let inputs = in_order(&served.signature, inputs).map_err(|error| told(Error::Invalid(error.to_string())))?;
        self.ask(&replica, context, inputs, depth + 1).await.map_err(told)
    }
}

/// The tensor that a source is now.
fn take(source: &Source, inputs: &[Tensor], made: &[Vec<Tensor>]) -> Result<Tensor> {
    let (tensors, name) = match source {
        Source::Input(name) => (inputs, name),
        Source::Output(step, name) => (&made[*step][..], name),
    };
    let tensor = tensors.iter().find(|tensor| tensor.name == *name).cloned();
    tensor.ok_or_else(|| Error::Internal(format!("no tensor {name} in a pipeline")))
}

impl Answered {
    fn nothing() -> Answered {
        let none = Duration::ZERO;
        Answered { outputs: Vec::new(), cpu_seconds: 0.0, queue: none, batch: none, compute: none }
    }

    /// Adds what a level took: everybody's work, and the time of the slowest.
    fn add_longest(&mut self, answers: &[(usize, Answered)]) {
        let longest = |of: fn(&Answered) -> Duration| answers.iter().map(|(_, one)| of(one)).max().unwrap_or_default();
        self.cpu_seconds += answers.iter().map(|(_, one)| one.cpu_seconds).sum::<f64>();
        self.queue += longest(|one| one.queue);
        self.batch += longest(|one| one.batch);
        self.compute += longest(|one| one.compute);
    }
}
