//! What a panic said.

use std::any::Any;

/// The text of a panic that was caught, where it has one.
pub fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_kind() {
        let caught: [(Box<dyn Any + Send>, _); 3] =
            [(Box::new("plain"), "plain"), (Box::new("made".to_owned()), "made"), (Box::new(1), "no message")];
        for (panic, want) in caught {
            assert_eq!(text(&*panic), want);
        }
    }
}
