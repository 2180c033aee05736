//! Templates: minijinja, strict and bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Serde, Value},
};

use super::{
    Context,
    error::{Reason, RenderError, Result},
};
use crate::{
    object::yaml::YamlError,
    status::truncate,
    tree::{FileTree, RepoPath},
};

mod filters;

/// Instructions of one template; a loop over a thousand values takes some ten thousand.
const FUEL: u64 = 2_000_000;
/// Nesting of loops, macros and includes; a macro or include counts about ten.
const RECURSION: usize = 200;
/// Bytes that one template may write.
pub const MAX_OUTPUT: usize = 4 << 20;
/// Largest template, in bytes.
pub const MAX_SOURCE: usize = 64 << 10;
/// Largest message about a template, in bytes: it may quote what the template made.
const MAX_MESSAGE: usize = 2000;
/// What a template may name at its top.
const NAMES: &str = "values, sync, repository, namespace";

/// Whether a file is a template: by its name.
pub fn is_template(path: &RepoPath) -> bool {
    path.file_name().and_then(|name| name.rsplit_once('.')).is_some_and(|(_, end)| end == "j2")
}

/// Renders the templates of a tree. In the controller they are programs of strangers, whose time and memory only a
/// process of their own bounds; see `docs/DESIGN.md`.
pub trait Templates {
    /// What the template at `path` writes. It may include and import other files of the tree named `*.j2`, by paths
    /// relative to its own folder.
    fn render(&self, path: &RepoPath, source: &str) -> Result<Written>;
}

/// What a template wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The text, at most 4 MiB.
    pub text: String,
    /// The other files that it has read; more may be named, which templates rendered before it have read.
    pub read: BTreeSet<RepoPath>,
}

/// Renders in this very process, with bounds on steps, nesting and output only: for the user's own machine, and inside
/// of a process whose memory and time are bounded.
pub struct Engine {
    environment: Environment<'static>,
    variables: Value,
}

impl Engine {
    /// `load` gives the bytes of a file named `*.j2`, if there is such a file.
    pub fn new(
        context: &Context,
        load: impl Fn(&RepoPath) -> Option<Arc<[u8]>> + Send + std::marker::Sync + 'static,
    ) -> Self {
        Self { environment: environment(load), variables: variables(context) }
    }

    /// For the templates of a tree.
    pub fn of_tree(tree: &FileTree, context: &Context) -> Self {
        let templates = tree.iter().filter(|(path, _)| is_template(path));
        let templates: BTreeMap<RepoPath, Arc<[u8]>> = templates.map(|(p, e)| (p.clone(), e.bytes.clone())).collect();
        Self::new(context, move |path| templates.get(path).cloned())
    }

    fn write(&self, path: &RepoPath, source: &str) -> std::result::Result<String, Error> {
        let template = self.environment.template_from_named_str(path.as_str(), source)?;
        let mut output = Bounded(vec![]);
        template.render_captured_to(&self.variables, &mut output)?;
        String::from_utf8(output.0).map_err(|_| Error::new(ErrorKind::WriteFailure, "the output is no UTF-8 text"))
    }
}

impl Templates for Engine {
    fn render(&self, path: &RepoPath, source: &str) -> Result<Written> {
        check_source(path, source)?;
        let text = self.write(path, source).map_err(|error| template_error(path, &error))?;
        let read = self.environment.templates().filter_map(|(name, _)| RepoPath::parse(name).ok()).collect();
        Ok(Written { text, read })
    }
}

/// Refuses a template that is too large to be rendered anywhere.
pub(super) fn check_source(path: &RepoPath, source: &str) -> Result<()> {
    check_size(source.as_bytes()).map_err(|error| template_error(path, &error))
}

fn check_size(source: &[u8]) -> std::result::Result<(), Error> {
    if source.len() > MAX_SOURCE {
        let message = format!("a template has at most {} KiB; split it", MAX_SOURCE >> 10);
        return Err(Error::new(ErrorKind::SyntaxError, message));
    }
    Ok(())
}

fn variables(context: &Context) -> Value {
    let Context { values, sync, repository, namespace } = context;
    // `values.x` is an undefined value, not an error about nothing, where the Sync has no values at all.
    let values = if values.is_null() { &serde_json::json!({}) } else { values };
    let (values, sync, repository) = (Serde(values), Serde(sync), Serde(repository));
    minijinja::context! {
        values => Value::from(values),
        sync => Value::from(sync),
        repository => Value::from(repository),
        namespace,
    }
}

/// What all templates of a tree share.
fn environment(
    load: impl Fn(&RepoPath) -> Option<Arc<[u8]>> + Send + std::marker::Sync + 'static,
) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // Lines of block tags leave nothing behind, which YAML's indentation needs.
    if let Ok(syntax) =
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()
    {
        environment.set_syntax(syntax);
    }
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_debug(true);
    environment.set_path_join_callback(|name, parent| {
        let parent = RepoPath::parse(parent).unwrap_or_default().parent();
        parent.join(name).map_or_else(|_| name.to_owned().into(), |path| path.as_str().to_owned().into())
    });
    environment.set_loader(move |name| {
        let path = RepoPath::parse(name).ok().filter(is_template);
        let Some(bytes) = path.and_then(|path| load(&path)) else { return Ok(None) };
        check_size(&bytes)?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| Error::new(ErrorKind::BadInclude, "the file is no UTF-8 text"))?;
        Ok(Some(text.to_owned()))
    });
    filters::add(&mut environment);
    environment
}

/// Refuses to grow beyond [`MAX_OUTPUT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("the template writes more than {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The error with the file and line of the template that made it, which may be an included one.
fn template_error(path: &RepoPath, error: &Error) -> RenderError {
    use std::error::Error as _;
    // An error inside an include or a call is wrapped in one for each level; the innermost has the cause.
    let mut inner = error;
    while let Some(next) = inner.source().and_then(|e| e.downcast_ref::<Error>()) {
        inner = next;
    }
    let named = if inner.name().is_some() { inner } else { error };
    let file = named.name().and_then(|name| RepoPath::parse(name).ok()).unwrap_or_else(|| path.clone());
    let reason = if inner.kind() == ErrorKind::OutOfFuel { Reason::TooLarge } else { Reason::TemplateFailed };
    RenderError::new(&file, named.line().unwrap_or(0), reason, truncate(&explain(named, inner), MAX_MESSAGE))
}

fn explain(named: &Error, error: &Error) -> String {
    use std::error::Error as _;
    let excerpt = || {
        let text = named.template_source()?.get(named.range()?)?;
        (text.len() < 200).then(|| text.trim().to_owned())
    };
    let mut message = match error.kind() {
        ErrorKind::UndefinedError => {
            let what = error.detail().map(ToOwned::to_owned).or_else(|| Some(format!("`{}` is undefined", excerpt()?)));
            let what = what.unwrap_or_else(|| "an undefined value is used".into());
            let values = what.contains("values.");
            let hint = if values { " (values: spec.values of the Sync, or the file given to --values)" } else { "" };
            return format!("{what}; templates see {NAMES}{hint}");
        }
        ErrorKind::OutOfFuel => format!("the template takes more than {FUEL} steps"),
        ErrorKind::TemplateNotFound => "the file to include is not in the repository, or is not named *.j2".into(),
        kind => kind.to_string(),
    };
    if let Some(detail) = error.detail() {
        message = format!("{message}: {detail}");
    }
    if let Some(source) = error.source() {
        message = format!("{message}: {source}");
    }
    message
}

/// A YAML error in what a template wrote: the line counts there, so its key is shown. The rest of it is not: values may
/// come from Secrets.
pub(super) fn yaml_error(path: &RepoPath, text: &str, error: &YamlError) -> RenderError {
    let line = text.lines().nth(error.line.saturating_sub(1)).unwrap_or_default();
    let shown = match line.split_once(':') {
        Some((key, _)) if key.len() < 80 => format!(" (`{key}: …`)"),
        _ => String::new(),
    };
    let message = format!("in the rendered output, line {}: {}{shown}", error.line, error.message);
    RenderError::new(path, 0, Reason::of_yaml(error), message)
}
