//! Admission, phases and pods of Tasks (pure).
