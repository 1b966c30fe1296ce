use wattle_core::{Signature, TensorSpec};

/// Why a revision cannot answer the calls of another one, which are made for that one's signature; nothing, when it can.
///
/// It takes the same inputs, of any size where the other does and with gaps where the other does, and gives at least the
/// same outputs.
pub(crate) fn difference(stable: &Signature, candidate: &Signature) -> Option<String> {
    for spec in &candidate.inputs {
        match stable.input(&spec.name) {
            None => return Some(format!("it takes the input {:?}, which no call has", spec.name)),
            Some(known) => {
                if let Some(difference) = input_difference(known, spec) {
                    return Some(difference);
                }
            }
        }
    }
    if let Some(absent) = stable.inputs.iter().find(|spec| candidate.input(&spec.name).is_none()) {
        return Some(format!("it does not take the input {:?}", absent.name));
    }
    for spec in &stable.outputs {
        match candidate.outputs.iter().find(|output| output.name == spec.name) {
            None => return Some(format!("it does not give the output {:?}", spec.name)),
            Some(output) if output.datatype != spec.datatype => {
                return Some(format!("its output {:?} is {} and not {}", spec.name, output.datatype, spec.datatype));
            }
            Some(_) => {}
        }
    }
    None
}

fn input_difference(known: &TensorSpec, spec: &TensorSpec) -> Option<String> {
    let name = &spec.name;
    if spec.datatype != known.datatype {
        return Some(format!("its input {name:?} is {} and not {}", spec.datatype, known.datatype));
    }
    let fits = |(takes, comes): (&i64, &i64)| *takes < 0 || takes == comes;
    if spec.shape.len() != known.shape.len() || !spec.shape.iter().zip(&known.shape).all(fits) {
        return Some(format!("its input {name:?} has the shape {:?} and not {:?}", spec.shape, known.shape));
    }
    (known.missing && !spec.missing).then(|| format!("its input {name:?} takes no missing values"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_core::Datatype;

    fn spec(name: &str, datatype: Datatype, shape: &[i64], missing: bool) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), missing }
    }

    fn signature(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Signature {
        Signature { inputs: inputs.to_vec(), outputs: outputs.to_vec() }
    }

    #[test]
    fn a_candidate_answers_whatever_the_stable_revision_is_asked() {
        let x = spec("x", Datatype::Fp64, &[-1, 4], false);
        let y = spec("y", Datatype::Fp64, &[-1, 1], false);
        let stable = signature(std::slice::from_ref(&x), std::slice::from_ref(&y));
        let told = |inputs: &[TensorSpec], outputs: &[TensorSpec]| difference(&stable, &signature(inputs, outputs));
        let more = spec("p", Datatype::Fp32, &[-1, 2], false);
        assert_eq!(told(std::slice::from_ref(&x), &[y.clone(), more.clone()]), None);
        assert_eq!(told(&[spec("x", Datatype::Fp64, &[-1, -1], true)], std::slice::from_ref(&y)), None);
        for (inputs, outputs, words) in [
            (vec![x.clone(), more.clone()], vec![y.clone()], "the input \"p\", which no call has"),
            (vec![], vec![y.clone()], "does not take the input \"x\""),
            (vec![spec("x", Datatype::Fp32, &[-1, 4], false)], vec![y.clone()], "\"x\" is FP32 and not FP64"),
            (vec![spec("x", Datatype::Fp64, &[1, 4], false)], vec![y.clone()], "shape [1, 4] and not [-1, 4]"),
            (vec![spec("x", Datatype::Fp64, &[-1], false)], vec![y], "shape [-1] and not [-1, 4]"),
            (vec![x.clone()], vec![more], "does not give the output \"y\""),
            (vec![x.clone()], vec![spec("y", Datatype::Int64, &[-1], false)], "\"y\" is INT64 and not FP64"),
        ] {
            let told = told(&inputs, &outputs);
            assert!(told.as_ref().is_some_and(|told| told.contains(words)), "{told:?}");
        }
        let gaps = signature(&[TensorSpec { missing: true, ..x.clone() }], &[]);
        let told = difference(&gaps, &signature(&[x], &[]));
        assert!(told.is_some_and(|told| told.contains("takes no missing values")));
    }
}
