#![allow(unsafe_code, reason = "llama.cpp's interface is one of C")]

use std::{fmt, fs, num::NonZeroU32, path::Path, str::FromStr};

use llama_cpp_sys_2 as sys;

use super::{log, native::c_path};
use crate::{Error, Result, gguf::Gguf};

/// How the numbers of a model's matrices are stored; vectors stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    name: &'static str,
    number: sys::llama_ftype,
}

impl Quantization {
    /// All of them, the largest first.
    pub const ALL: [Quantization; 18] = [
        Quantization { name: "f32", number: sys::LLAMA_FTYPE_ALL_F32 },
        Quantization { name: "bf16", number: sys::LLAMA_FTYPE_MOSTLY_BF16 },
        Quantization { name: "f16", number: sys::LLAMA_FTYPE_MOSTLY_F16 },
        Quantization { name: "q8_0", number: sys::LLAMA_FTYPE_MOSTLY_Q8_0 },
        Quantization { name: "q6_k", number: sys::LLAMA_FTYPE_MOSTLY_Q6_K },
        Quantization { name: "q5_1", number: sys::LLAMA_FTYPE_MOSTLY_Q5_1 },
        Quantization { name: "q5_k_m", number: sys::LLAMA_FTYPE_MOSTLY_Q5_K_M },
        Quantization { name: "q5_k_s", number: sys::LLAMA_FTYPE_MOSTLY_Q5_K_S },
        Quantization { name: "q5_0", number: sys::LLAMA_FTYPE_MOSTLY_Q5_0 },
        Quantization { name: "q4_1", number: sys::LLAMA_FTYPE_MOSTLY_Q4_1 },
        Quantization { name: "q4_k_m", number: sys::LLAMA_FTYPE_MOSTLY_Q4_K_M },
        Quantization { name: "q4_k_s", number: sys::LLAMA_FTYPE_MOSTLY_Q4_K_S },
        Quantization { name: "q4_0", number: sys::LLAMA_FTYPE_MOSTLY_Q4_0 },
        Quantization { name: "iq4_nl", number: sys::LLAMA_FTYPE_MOSTLY_IQ4_NL },
        Quantization { name: "iq4_xs", number: sys::LLAMA_FTYPE_MOSTLY_IQ4_XS },
        Quantization { name: "q3_k_l", number: sys::LLAMA_FTYPE_MOSTLY_Q3_K_L },
        Quantization { name: "q3_k_m", number: sys::LLAMA_FTYPE_MOSTLY_Q3_K_M },
        Quantization { name: "q2_k", number: sys::LLAMA_FTYPE_MOSTLY_Q2_K },
    ];

    /// Its name, as on the command line: `q4_k_m`.
    pub fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl FromStr for Quantization {
    type Err = Error;

    fn from_str(text: &str) -> Result<Quantization> {
        let found = Quantization::ALL.into_iter().find(|kind| kind.name.eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let names = Quantization::ALL.map(Quantization::name).join(", ");
            Error::InvalidInput(format!("{text:?} is no way to quantise; choose one of {names}"))
        })
    }
}

/// Writes a model that is not quantised yet to a new file, quantised.
///
/// # Errors
/// [`Error::InvalidModel`] if the model cannot be read or is quantised already; [`Error::Io`] if the file is not there or the
/// new one cannot be written, of which nothing is left then.
pub fn quantize(from: &Path, to: &Path, kind: Quantization, threads: NonZeroU32) -> Result<()> {
    let header = Gguf::open(from)?;
    // llama.cpp says it of the first such tensor, after it began to write.
    if let Some(tensor) = header.tensors.iter().find(|tensor| tensor.kind.block_values() > 1) {
        return Err(Error::InvalidModel(format!(
            "the model is quantised already: {} is {}; start from its f32, f16 or bf16 file",
            tensor.name, tensor.kind
        )));
    }
    let (from, name) = (c_path(from)?, c_path(to)?);
    // Whatever keeps it from being written is said by the system's own error.
    fs::File::create(to)?;
    log::initialise();
    // SAFETY: it takes nothing.
    let mut parameters = unsafe { sys::llama_model_quantize_default_params() };
    parameters.nthread = i32::try_from(threads.get()).unwrap_or(i32::MAX);
    parameters.ftype = kind.number;
    // SAFETY: both names end with 0 and live during the call, as the parameters do, which are llama.cpp's own but for two.
    let call = || unsafe { sys::llama_model_quantize(from.as_ptr(), name.as_ptr(), &raw const parameters) };
    let (status, heard) = log::listen(call);
    if status == 0 {
        return Ok(());
    }
    fs::remove_file(to)?;
    let reason = heard.reason("llama.cpp does not say why");
    Err(Error::InvalidModel(format!("llama.cpp cannot quantise the model to {kind}: {reason}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Quantization::ALL {
            assert_eq!(kind.name().parse::<Quantization>().unwrap(), kind);
            assert_eq!(kind.name().to_uppercase().parse::<Quantization>().unwrap(), kind);
        }
        let error = "q9".parse::<Quantization>().unwrap_err().to_string();
        assert!(error.contains("q4_k_m"), "{error}");
    }
}
