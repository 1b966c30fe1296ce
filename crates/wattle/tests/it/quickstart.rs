//! `wattle quickstart` with `--keep`; the README's test runs it without.

use std::{fs, path::PathBuf, process::Command};

use serde_json::json;

use crate::support::{command, post, wait_for};

#[test]
fn a_kept_quick_start_serves_on_until_it_is_stopped_as_it_says() {
    let output = command().args(["quickstart", "--keep"]).output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{page}{}", String::from_utf8_lossy(&output.stderr));
    // The page says how to stop it: `kill ID; …; rm -r FOLDER`.
    let stop = page.lines().find(|line| line.trim().starts_with("kill ")).expect("no word on how to stop it").trim();
    let (id, (_, folder)) = (stop.split([' ', ';']).nth(1).unwrap(), stop.rsplit_once("; rm -r ").unwrap());
    let kept = Kept { id: id.parse().unwrap(), folder: PathBuf::from(folder) };

    let url = page.split_whitespace().find_map(|word| word.strip_prefix("WATTLE_URL=")).unwrap();
    let answer = post(&format!("{url}/predict"), &json!({ "x": [1.0] }));
    let y = answer.json()["y_pred"][0][0].as_f64().unwrap();
    assert!((y - 3.0).abs() < 0.05, "{y}");
    assert!(kept.folder.join("data/catalogue.sqlite").is_file());

    let try_next = command().env("WATTLE_URL", url).args(["models", "show", "cancer", "-o", "json"]).output().unwrap();
    let cancer: serde_json::Value = serde_json::from_slice(&try_next.stdout).unwrap();
    assert!(cancer["metrics"]["held_out"]["roc_auc"].as_f64().unwrap() >= 0.99, "{cancer}");

    let mut stopping = Command::new("sh").args(["-c", stop]).spawn().unwrap();
    let status = wait_for("the server's end", || stopping.try_wait().unwrap());
    assert!(status.success() && !kept.folder.exists(), "{stop}: {status}");
    assert!(std::net::TcpStream::connect(url.trim_start_matches("http://")).is_err());
}

/// What the test leaves behind otherwise.
struct Kept {
    id: i32,
    folder: PathBuf,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(id) = rustix::process::Pid::from_raw(self.id) {
            // It may have ended already.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
