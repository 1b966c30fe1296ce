use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Error, Result};

/// The largest file of JSON that is read; tokenizers of large vocabularies have some 30 MB.
const MOST_JSON_BYTES: u64 = 128 << 20;

/// A folder of a model.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

/// What `config.json` says, of which numbers are checked as they are read.
#[derive(Debug)]
pub(super) struct Config(Value);

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder> {
        if !path.join("config.json").is_file() {
            return Err(Error::InvalidModel(format!(
                "{} has no config.json: name the folder of a Hugging Face model, with its safetensors files",
                path.display()
            )));
        }
        Ok(Folder { path: path.to_owned() })
    }

    pub(super) fn config(&self) -> Result<Config> {
        let config = self.json("config.json")?.ok_or_else(|| Error::InvalidModel("there is no config.json".into()))?;
        // Models that see as well as read have their text's configuration within.
        Ok(Config(config))
    }

    /// The folder's own name, for want of a better one.
    pub(super) fn name(&self) -> Option<String> {
        let path = self.path.canonicalize().ok()?;
        path.file_name().map(|name| name.to_string_lossy().into_owned())
    }

    /// The path of a file whose name came out of another file.
    ///
    /// # Errors
    /// If it would lie elsewhere.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf> {
        let is_plain = !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
        match is_plain {
            true => Ok(self.path.join(name)),
            false => Err(Error::InvalidModel(format!("the folder names the file {name:?}, which is not in it"))),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    /// A file of text; nothing if there is none.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let path = self.path.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::open(&path)?.take(MOST_JSON_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_JSON_BYTES {
            return Err(Error::InvalidModel(format!("{name} is larger than {MOST_JSON_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| Error::InvalidModel(format!("{name} is no UTF-8")))?;
        Ok(Some(text))
    }

    /// A file of JSON; nothing if there is none.
    pub(super) fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|error| Error::InvalidModel(format!("{name} is no JSON: {error}")))
    }
}

impl Config {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// A whole number that the model cannot do without.
    pub(super) fn count(&self, key: &str) -> Result<u32> {
        self.optional_count(key)?.ok_or_else(|| Error::InvalidModel(format!("config.json has no {key}")))
    }

    pub(super) fn optional_count(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|count| *count <= 1 << 24);
        match count {
            Some(count) => Ok(Some(count)),
            None => Err(Error::InvalidModel(format!("config.json's {key} is no whole number up to {}", 1 << 24))),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(Error::InvalidModel(format!("config.json's {key} is no number"))),
        }
    }

    /// How many heads attention has.
    pub(super) fn heads(&self) -> Result<u32> {
        self.count("num_attention_heads").and_then(|heads| positive("num_attention_heads", heads))
    }

    /// How many of them have keys and values of their own.
    pub(super) fn heads_kv(&self) -> Result<u32> {
        let heads = self.heads()?;
        let heads_kv = positive("num_key_value_heads", self.optional_count("num_key_value_heads")?.unwrap_or(heads))?;
        match heads % heads_kv {
            0 => Ok(heads_kv),
            _ => Err(Error::InvalidModel(format!("{heads} heads cannot share {heads_kv} of keys and values"))),
        }
    }

    /// How many numbers a head has.
    pub(super) fn head_width(&self) -> Result<u32> {
        match self.optional_count("head_dim")? {
            Some(width) => positive("head_dim", width),
            None => positive("hidden_size", self.count("hidden_size")? / self.heads()?),
        }
    }

    /// What rotates positions: `rope_parameters` since version 5 of the transformers, `rope_scaling` before.
    pub(super) fn rope(&self) -> Option<&Value> {
        self.get("rope_parameters").or_else(|| self.get("rope_scaling"))
    }
}

fn positive(key: &str, count: u32) -> Result<u32> {
    if count > 0 { Ok(count) } else { Err(Error::InvalidModel(format!("config.json's {key} makes no head"))) }
}

#[cfg(test)]
impl From<Value> for Config {
    fn from(value: Value) -> Config {
        Config(value)
    }
}
