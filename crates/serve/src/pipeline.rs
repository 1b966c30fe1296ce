//! Several deployments as one: a sequence, or an ensemble, whose tensors are wired by name.
//!
//! A pipeline is a version of a model like any other; its file is this specification instead of a graph:
//!
//! ```toml
//! [[steps]]
//! deployment = "scale"
//!
//! [[steps]]
//! deployment = "classify"
//! inputs = { x = "scale.y" }
//!
//! [outputs]
//! label = "classify.y_pred"
//! ```
//!
//! An input that is not wired is the output of the same name of the nearest step before, or else the pipeline's own. Without
//! outputs the pipeline has those of its last step. Steps that do not need each other run at the same time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattle_core::{Name, Signature, TensorSpec, nearest};

use crate::{Error, Result};

/// The most steps of a pipeline.
const MAX_STEPS: usize = 64;

/// A pipeline as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// The steps; each sees what those before it made.
    pub steps: Vec<Step>,
    /// Where the pipeline's outputs come from, as `step.output`; without, they are the last step's.
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
}

/// A call of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is called.
    pub deployment: Name,
    /// The step's name, if the same deployment is called twice; the deployment's otherwise.
    #[serde(default)]
    pub name: Option<Name>,
    /// Where the deployment's inputs come from: the pipeline's `input`, or `step.output`.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
}

/// A pipeline whose every tensor has its source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wired {
    pub(crate) steps: Vec<WiredStep>,
    /// The pipeline's outputs by name, and where they come from.
    pub(crate) outputs: Vec<(String, Source)>,
}

/// A step and where its inputs come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WiredStep {
    pub(crate) deployment: Name,
    pub(crate) inputs: Vec<(String, Source)>,
    /// Steps of a level need only those of lower ones.
    pub(crate) level: usize,
}

/// Where a tensor comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// The pipeline's own input of this name.
    Input(String),
    /// A step's output of this name.
    Output(usize, String),
}

impl Pipeline {
    /// What a manifest calls the format of a pipeline's file.
    pub const FORMAT: &str = "pipeline";

    /// Reads a specification.
    ///
    /// # Errors
    /// [`Error::Invalid`] says what is wrong with it.
    pub fn from_toml(text: &str) -> Result<Pipeline> {
        let pipeline: Pipeline = toml::from_str(text)
            .map_err(|error| Error::Invalid(format!("not a usable pipeline: {}", error.message())))?;
        match pipeline.steps.len() {
            0 => Err(Error::Invalid("a pipeline needs steps: name a deployment in [[steps]]".into())),
            count if count > MAX_STEPS => {
                Err(Error::Invalid(format!("{count} steps, and a pipeline has at most {MAX_STEPS}")))
            }
            _ => Ok(pipeline),
        }
    }

    /// The pipeline's inputs and outputs, and its wires, by what its deployments take and give.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a deployment that is not there; [`Error::Invalid`] for a wire from nowhere, or between
    /// tensors of different types.
    pub(crate) fn wire(&self, signature_of: impl Fn(&Name) -> Result<Signature>) -> Result<(Signature, Wired)> {
        let mut wiring = Wiring { names: Vec::new(), signatures: Vec::new(), inputs: Vec::new(), steps: Vec::new() };
        for step in &self.steps {
            wiring.add(step, signature_of(&step.deployment)?)?;
        }
        let (mut outputs, mut specs) = (Vec::new(), Vec::new());
        if self.outputs.is_empty() {
            let last = wiring.steps.len() - 1;
            specs.clone_from(&wiring.signatures[last].outputs);
            outputs.extend(specs.iter().map(|spec| (spec.name.clone(), Source::Output(last, spec.name.clone()))));
        }
        for (name, text) in &self.outputs {
            let (source, spec) = wiring.output(text)?;
            specs.push(TensorSpec { name: name.clone(), ..spec });
            outputs.push((name.clone(), source));
        }
        let signature = Signature { inputs: wiring.inputs, outputs: specs };
        Ok((signature, Wired { steps: wiring.steps, outputs }))
    }
}

/// A pipeline that is being wired, step by step.
struct Wiring {
    names: Vec<String>,
    signatures: Vec<Signature>,
    inputs: Vec<TensorSpec>,
    steps: Vec<WiredStep>,
}

impl Wiring {
    fn add(&mut self, step: &Step, signature: Signature) -> Result<()> {
        let name = step.name.as_ref().unwrap_or(&step.deployment).to_string();
        if self.names.contains(&name) {
            return Err(Error::Invalid(format!("two steps are called {name}: give one of them another name")));
        }
        if let Some(unknown) = step.inputs.keys().find(|input| signature.input(input).is_none()) {
            let hint = match signature.nearest_input(unknown) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("it takes {}", joined(signature.inputs.iter().map(|spec| spec.name.as_str()))),
            };
            return Err(Error::Invalid(format!("step {name} has no input {unknown:?}: {hint}")));
        }
        let mut inputs = Vec::with_capacity(signature.inputs.len());
        for spec in &signature.inputs {
            let (source, made) = match step.inputs.get(&spec.name) {
                Some(text) if text.contains('.') => self.output(text)?,
                Some(text) => self.own_input(text, spec),
                None => self.nearest_output(&spec.name).unwrap_or_else(|| self.own_input(&spec.name, spec)),
            };
            if made.datatype != spec.datatype {
                return Err(Error::Invalid(format!(
                    "step {name} takes {:?} as {}, and gets {}: wire it to a tensor of its type",
                    spec.name, spec.datatype, made.datatype
                )));
            }
            inputs.push((spec.name.clone(), source));
        }
        let needs = inputs.iter().map(|(_, source)| match source {
            Source::Input(_) => 0,
            Source::Output(step, _) => self.steps[*step].level + 1,
        });
        let level = needs.max().unwrap_or(0);
        self.steps.push(WiredStep { deployment: step.deployment.clone(), inputs, level });
        self.names.push(name);
        self.signatures.push(signature);
        Ok(())
    }

    /// The output that `step.output` names.
    fn output(&self, text: &str) -> Result<(Source, TensorSpec)> {
        let (step, output) = text
            .split_once('.')
            .ok_or_else(|| Error::Invalid(format!("{text:?} names no output: write it as step.output")))?;
        let Some(index) = self.names.iter().position(|name| name == step) else {
            let hint = match nearest(step, self.names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("those before are {}", joined(self.names.iter().map(String::as_str))),
            };
            return Err(Error::Invalid(format!("{text:?} names no earlier step {step}: {hint}")));
        };
        let outputs = &self.signatures[index].outputs;
        let Some(spec) = outputs.iter().find(|spec| spec.name == output) else {
            let hint = match nearest(output, outputs.iter().map(|spec| spec.name.as_str())) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("it has {}", joined(outputs.iter().map(|spec| spec.name.as_str()))),
            };
            return Err(Error::Invalid(format!("step {step} has no output {output:?}: {hint}")));
        };
        Ok((Source::Output(index, output.to_owned()), spec.clone()))
    }

    fn nearest_output(&self, name: &str) -> Option<(Source, TensorSpec)> {
        let made = |(index, signature): (usize, &Signature)| {
            let spec = signature.outputs.iter().find(|spec| spec.name == name)?;
            Some((Source::Output(index, name.to_owned()), spec.clone()))
        };
        self.signatures.iter().enumerate().rev().find_map(made)
    }

    /// The pipeline's own input of this name, which becomes one by being asked for.
    fn own_input(&mut self, name: &str, wanted: &TensorSpec) -> (Source, TensorSpec) {
        let source = Source::Input(name.to_owned());
        match self.inputs.iter_mut().find(|spec| spec.name == name) {
            Some(known) => {
                // Two steps take it: it may be missing only where both let it.
                known.missing &= wanted.missing;
                (source, known.clone())
            }
            None => {
                let spec = TensorSpec { name: name.to_owned(), ..wanted.clone() };
                self.inputs.push(spec.clone());
                (source, spec)
            }
        }
    }
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.take(20).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use wattle_core::Datatype;

    use super::*;

    fn spec(name: &str, datatype: Datatype) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: vec![-1, 1], missing: true }
    }

    /// `scale`: x to y; `mean`: a and b to y; `label`: x to text.
    fn signature_of(name: &Name) -> Result<Signature> {
        let fp = |name| spec(name, Datatype::Fp64);
        let (inputs, outputs) = match name.as_str() {
            "scale" | "shift" => (vec![fp("x")], vec![fp("y")]),
            "mean" => (vec![fp("a"), fp("b")], vec![fp("y")]),
            "label" => (vec![fp("x")], vec![spec("text", Datatype::Bytes)]),
            other => return Err(Error::NotFound(format!("there is no deployment {other}"))),
        };
        Ok(Signature { inputs, outputs })
    }

    fn wired(text: &str) -> Result<(Signature, Wired)> {
        Pipeline::from_toml(text)?.wire(signature_of)
    }

    #[test]
    fn a_sequence_passes_its_tensors_on() {
        let (signature, wired) =
            wired("steps = [{ deployment = 'scale' }, { deployment = 'label', inputs = { x = 'scale.y' } }]").unwrap();
        assert_eq!(signature.inputs, [spec("x", Datatype::Fp64)]);
        assert_eq!(signature.outputs, [spec("text", Datatype::Bytes)]);
        assert_eq!(wired.steps.iter().map(|step| step.level).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn an_ensemble_runs_side_by_side() {
        let (signature, wired) = wired(
            "steps = [
                 { deployment = 'scale' },
                 { deployment = 'shift' },
                 { deployment = 'mean', inputs = { a = 'scale.y', b = 'shift.y' } },
             ]
             [outputs]
             both = 'mean.y'
             one = 'scale.y'",
        )
        .unwrap();
        assert_eq!(signature.inputs.len(), 1, "both take the pipeline's x");
        assert_eq!(signature.outputs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["both", "one"]);
        assert_eq!(wired.steps.iter().map(|step| step.level).collect::<Vec<_>>(), [0, 0, 1]);
    }

    #[test]
    fn wires_from_nowhere_are_told_with_the_nearest_name() {
        let refusal = |text: &str| wired(text).unwrap_err().to_string();
        for (text, words) in [
            ("steps = []", "needs steps"),
            ("stepps = []", "unknown field `stepps`"),
            ("steps = [{ deployment = 'nobody' }]", "no deployment nobody"),
            ("steps = [{ deployment = 'scale' }, { deployment = 'scale' }]", "two steps are called scale"),
            ("steps = [{ deployment = 'mean', inputs = { c = 'x' } }]", "step mean has no input \"c\""),
            (
                "steps = [{ deployment = 'scale' }, { deployment = 'label', inputs = { x = 'scal.y' } }]",
                "did you mean scale?",
            ),
            (
                "steps = [{ deployment = 'scale' }, { deployment = 'label', inputs = { x = 'scale.z' } }]",
                "no output \"z\"",
            ),
            (
                "steps = [{ deployment = 'label', inputs = { x = 'scale.y' } }, { deployment = 'scale' }]",
                "no earlier step",
            ),
            (
                "steps = [{ deployment = 'label' }, { deployment = 'scale', inputs = { x = 'label.text' } }]",
                "takes \"x\" as FP64, and gets BYTES",
            ),
            ("steps = [{ deployment = 'scale' }]\n[outputs]\ny = 'y'", "write it as step.output"),
        ] {
            let told = refusal(text);
            assert!(told.contains(words), "{text}: {told}");
        }
    }
}
