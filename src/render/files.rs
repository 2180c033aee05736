//! Reading the tree: every read is recorded, every size bounded.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use super::{
    MAX_BUILDS, MAX_BYTES, MAX_FILE_BYTES, MAX_OBJECTS, MAX_STEPS, MAX_WARNINGS,
    error::{Reason, RenderError, Result},
    import,
    manifest::{Origin, Resource},
    template::{self, Templates},
};
use crate::{
    object::yaml::{self, Budget, Document, YamlError},
    tree::{FileTree, RepoPath},
};

/// The names of a kustomization file, as kustomize knows them.
const KUSTOMIZATION: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

pub(super) struct Files<'a> {
    tree: &'a FileTree,
    templates: &'a dyn Templates,
    read: RefCell<BTreeSet<RepoPath>>,
    objects: Cell<usize>,
    bytes: Cell<usize>,
    builds: Cell<usize>,
    steps: Cell<usize>,
    warnings: RefCell<BTreeSet<String>>,
    memory: &'a Budget,
    /// Whether nobody waits for the result any more.
    stopped: &'a dyn Fn() -> bool,
}

impl<'a> Files<'a> {
    pub(super) fn new(
        tree: &'a FileTree,
        templates: &'a dyn Templates,
        stopped: &'a dyn Fn() -> bool,
        memory: &'a Budget,
    ) -> Self {
        Self {
            tree,
            templates,
            read: RefCell::default(),
            objects: Cell::new(0),
            bytes: Cell::new(0),
            builds: Cell::new(0),
            steps: Cell::new(0),
            warnings: RefCell::default(),
            memory,
            stopped,
        }
    }

    pub(super) fn into_read(self) -> BTreeSet<RepoPath> {
        self.read.into_inner()
    }

    pub(super) fn is_dir(&self, path: &RepoPath) -> bool {
        self.tree.is_dir(path)
    }

    pub(super) fn is_file(&self, path: &RepoPath) -> bool {
        self.tree.get(path).is_some()
    }

    /// The paths of all files below `dir`.
    pub(super) fn below(&self, dir: &'a RepoPath) -> impl Iterator<Item = &'a RepoPath> {
        self.tree.under(dir).map(|(path, _)| path)
    }

    /// The kustomization of a folder, if it has one.
    pub(super) fn kustomization(&self, dir: &RepoPath) -> Result<Option<RepoPath>> {
        let templates = KUSTOMIZATION.iter().filter_map(|name| dir.join(&format!("{name}.j2")).ok());
        templates.filter(|path| self.is_file(path)).try_for_each(|path| no_template(&path))?;
        let found: Vec<RepoPath> =
            KUSTOMIZATION.iter().filter_map(|name| dir.join(name).ok()).filter(|path| self.is_file(path)).collect();
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            [one, two, ..] => Err(RenderError::new(
                one,
                0,
                Reason::InvalidKustomization,
                format!("the folder also has {two}; a folder has one kustomization"),
            )),
        }
    }

    /// Tells what is allowed and yet looks wrong.
    pub(super) fn warn(&self, file: &RepoPath, line: usize, message: &str) {
        self.warned(format!("{file}:{line}: {message}"));
    }

    /// The same of a folder.
    pub(super) fn warn_of_folder(&self, dir: &RepoPath, message: &str) {
        let dir = if dir.as_str().is_empty() { "the repository" } else { dir.as_str() };
        self.warned(format!("{dir}: {message}"));
    }

    fn warned(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MAX_WARNINGS {
            warnings.insert(warning);
        }
    }

    /// What was warned of, sorted; the same from one kustomization that is built twice counts once.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().iter().cloned().collect()
    }

    /// The bytes of a file that exists.
    pub(super) fn bytes(&self, path: &RepoPath) -> Result<&'a [u8]> {
        let entry = self
            .tree
            .get(path)
            .ok_or_else(|| RenderError::new(path, 0, Reason::FileMissing, "there is no such file in the repository"))?;
        self.read.borrow_mut().insert(path.clone());
        if entry.bytes.len() > MAX_FILE_BYTES {
            let message = format!("the file has {} bytes; at most {MAX_FILE_BYTES} are read", entry.bytes.len());
            return Err(RenderError::new(path, 0, Reason::TooLarge, message));
        }
        self.charge(path, entry.bytes.len())?;
        Ok(&entry.bytes)
    }

    /// The text of a file that exists.
    pub(super) fn text(&self, path: &RepoPath) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(path)?).map_err(|e| {
            let line = 1 + self
                .tree
                .get(path)
                .map_or(0, |entry| entry.bytes.iter().take(e.valid_up_to()).filter(|b| **b == b'\n').count());
            RenderError::new(path, line, Reason::InvalidYaml, "the file is no UTF-8 text")
        })
    }

    /// The documents of a YAML, JSON or template file.
    pub(super) fn documents(&self, path: &RepoPath) -> Result<Vec<Document>> {
        if !template::is_template(path) {
            return self.parse(self.text(path)?).map_err(|e| RenderError::yaml(path, &e));
        }
        let output = self.written(path)?;
        self.parse(&output).map_err(|e| template::yaml_error(path, &output, &e))
    }

    /// The bytes that a file stands for: of a template, what it writes.
    pub(super) fn content(&self, path: &RepoPath) -> Result<Cow<'a, [u8]>> {
        if template::is_template(path) {
            return Ok(Cow::Owned(self.written(path)?.into_bytes()));
        }
        self.bytes(path).map(Cow::Borrowed)
    }

    /// The same of a file that is text.
    pub(super) fn words(&self, path: &RepoPath) -> Result<Cow<'a, str>> {
        if template::is_template(path) {
            self.written(path).map(Cow::Owned)
        } else {
            self.text(path).map(Cow::Borrowed)
        }
    }

    fn written(&self, path: &RepoPath) -> Result<String> {
        let text = self.text(path)?;
        self.go_on(path)?;
        template::check_source(path, text)?;
        let output = self.templates.render(path, text)?;
        self.charge(path, output.text.len())?;
        self.read.borrow_mut().extend(output.read);
        Ok(output.text)
    }

    /// The documents of a text, paid for.
    pub(super) fn parse(&self, text: &str) -> std::result::Result<Vec<Document>, YamlError> {
        yaml::parse_within(text, self.memory)
    }

    /// The manifests of a file, lists taken apart, other API groups mapped to ours.
    pub(super) fn resources(&self, path: &RepoPath) -> Result<Vec<Resource>> {
        no_template(path)?;
        let mut found = vec![];
        for document in self.documents(path)? {
            let origin = Origin::of(path, document.line, document.lines.into());
            Resource::from_document(document.value, &origin, &mut found)?;
        }
        found.iter_mut().try_for_each(import::map)?;
        self.count(path, found.len())?;
        Ok(found)
    }

    /// Counts bytes that were read, written by a template or added by a patch against the bound of a render.
    pub(super) fn charge(&self, path: &RepoPath, more: usize) -> Result<()> {
        self.go_on(path)?;
        self.bytes.set(self.bytes.get().saturating_add(more));
        if self.bytes.get() > MAX_BYTES {
            let message = format!("more than {} MiB in one Sync; split it", MAX_BYTES >> 20);
            return Err(RenderError::new(path, 0, Reason::TooLarge, message));
        }
        Ok(())
    }

    /// Pays for memory of what a render makes itself; see [`Budget`].
    pub(super) fn pay(&self, path: &RepoPath, bytes: usize) -> Result<()> {
        self.spend(bytes);
        self.paid(path)
    }

    /// As [`pay`](Self::pay), for places that cannot fail; [`paid`](Self::paid) tells afterwards.
    pub(super) fn spend(&self, bytes: usize) -> bool {
        self.memory.spend(bytes)
    }

    /// Counts steps, which take time: operations of patches, items that are moved, compared or looked up.
    pub(super) fn step(&self, path: &RepoPath, steps: usize) -> Result<()> {
        self.walk(steps);
        self.paid(path)
    }

    /// As [`step`](Self::step), for places that cannot fail. Nobody should go on after `false`.
    pub(super) fn walk(&self, steps: usize) -> bool {
        self.steps.set(self.steps.get().saturating_add(steps));
        self.steps.get() <= MAX_STEPS && !(self.stopped)()
    }

    /// An error where a bound was crossed, or the render was stopped.
    pub(super) fn paid(&self, path: &RepoPath) -> Result<()> {
        self.go_on(path)?;
        let message = if self.memory.is_exhausted() {
            let limit = self.memory.limit() >> 20;
            format!("what is read and made takes more than {limit} MiB of memory; split the Sync")
        } else if self.steps.get() > MAX_STEPS {
            format!("it takes more than {MAX_STEPS} steps (operations, items of lists that they move); make it smaller")
        } else {
            return Ok(());
        };
        Err(RenderError::new(path, 0, Reason::TooLarge, message))
    }

    /// Counts kustomizations that are built: each may name others several times.
    pub(super) fn count_build(&self, path: &RepoPath) -> Result<()> {
        self.go_on(path)?;
        self.builds.set(self.builds.get() + 1);
        if self.builds.get() > MAX_BUILDS {
            let message = format!("kustomizations are built more than {MAX_BUILDS} times; do not name them repeatedly");
            return Err(RenderError::new(path, 0, Reason::TooLarge, message));
        }
        Ok(())
    }

    /// An error when the render was stopped.
    pub(super) fn go_on(&self, path: &RepoPath) -> Result<()> {
        if (self.stopped)() {
            return Err(RenderError::too_long(path));
        }
        Ok(())
    }

    /// Counts objects against the bound of a render.
    pub(super) fn count(&self, path: &RepoPath, more: usize) -> Result<()> {
        self.go_on(path)?;
        self.objects.set(self.objects.get() + more);
        if self.objects.get() > MAX_OBJECTS {
            let message = format!("more than {MAX_OBJECTS} objects in one Sync; split it");
            return Err(RenderError::new(path, 0, Reason::TooLarge, message));
        }
        Ok(())
    }
}

/// A kustomization says which files are read before any template is rendered; so it is none itself, and no manifest.
fn no_template(path: &RepoPath) -> Result<()> {
    let name = path.file_name().and_then(|name| name.strip_suffix(".j2"));
    let Some(name) = name.filter(|name| KUSTOMIZATION.contains(name)) else { return Ok(()) };
    let message = format!("a kustomization cannot be a template; write {name}, and let its resources be templates");
    Err(RenderError::new(path, 0, Reason::NotSupported, message))
}
