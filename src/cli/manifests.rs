//! Manifests from files, folders and the standard input: every document of them, and the objects of Lists one by one.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::Value;
use serde_saphyr::Spanned;

/// One document of a file.
pub struct Document {
    /// Where it is, for people: `job.yaml`, or `job.yaml, line 12`.
    pub place: String,
    /// What it says.
    pub value: Value,
}

/// Every document of these files, in their order; `-` is the standard input, and of a folder it is each file that ends in .yaml, .yml or .json.
///
/// # Errors
/// If something cannot be read, or is not YAML.
pub fn documents(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut found = Vec::new();
    for path in paths {
        for file in files(path)? {
            let name = if file == Path::new("-") { "the standard input".to_owned() } else { file.display().to_string() };
            let text = read(&file)?;
            let documents: Vec<Spanned<Value>> = serde_saphyr::from_multiple(&text).with_context(|| format!("{name} is not YAML"))?;
            let several = documents.len() > 1;
            found.extend(documents.into_iter().map(|Spanned { value, referenced, .. }| {
                let place = if several { format!("{name}, line {}", referenced.line()) } else { name.clone() };
                Document { place, value }
            }));
        }
    }
    Ok(found)
}

impl Document {
    /// What to say of one that is no object of Kubernetes: its author may think otherwise.
    pub fn oddity(&self) -> Option<String> {
        let lacking = ["apiVersion", "kind"].into_iter().filter(|field| !self.value.get(field).is_some_and(Value::is_string));
        let lacking = lacking.collect::<Vec<_>>().join(" and no ");
        (!lacking.is_empty()).then(|| format!("{} is no Kubernetes object: it has no {lacking}", self.place))
    }
}

/// The objects of a List, as kubectl sends them; otherwise the object itself.
pub fn objects(document: &Value) -> Vec<&Value> {
    let items = document.get("items").and_then(Value::as_array).filter(|_| document.get("kind").is_some_and(|kind| kind == "List"));
    items.map_or_else(|| vec![document], |items| items.iter().flat_map(objects).collect())
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let about = || format!("could not read {}", path.display());
    let entries: Vec<_> = fs::read_dir(path).and_then(Iterator::collect).with_context(about)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry: fs::DirEntry| entry.path()).filter(|path| path.is_file()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known)));
    files.sort();
    anyhow::ensure!(!files.is_empty(), "there is no .yaml, .yml or .json in {}", path.display());
    Ok(files)
}

/// The text of a file; `-` is the standard input.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("could not read the standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_folder_is_read_in_the_order_of_its_names() {
        let folder = std::env::temp_dir().join(format!("koncli-manifests-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [("b.yml", "n: 2\n---\nn: 3\n"), ("a.yaml", "n: 1\n---\n"), ("c.json", "{\"n\": 4}"), ("d.txt", "n: 5")] {
            fs::write(folder.join(name), text).unwrap();
        }
        let numbers: Vec<Value> =
            documents(std::slice::from_ref(&folder)).unwrap().iter().map(|document| document.value["n"].clone()).collect();
        fs::remove_dir_all(folder).unwrap();
        assert_eq!(numbers, [json!(1), json!(2), json!(3), json!(4)]);
    }

    #[test]
    fn lists_in_lists_are_taken_apart() {
        let list = json!({ "kind": "List", "items": [{ "kind": "Pod" }, { "kind": "List", "items": [{ "kind": "Job" }] }] });
        assert_eq!(objects(&list), [&json!({ "kind": "Pod" }), &json!({ "kind": "Job" })]);
    }
}
