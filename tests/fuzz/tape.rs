//! A tape of bytes, from which everything that varies is read. A short one, or one of zeros, chooses the simplest.

pub struct Tape<'a>(pub &'a [u8]);

impl Tape<'_> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// A number below this one.
    pub fn below(&mut self, end: usize) -> usize {
        let number = if end > 256 { self.number() } else { self.byte().into() };
        number.checked_rem(end).unwrap_or(0)
    }

    pub fn pick<'b, T>(&mut self, list: &'b [T]) -> &'b T {
        &list[self.below(list.len())]
    }

    /// One time in so many; never at the end of the tape.
    pub fn rarely(&mut self, times: u8) -> bool {
        let byte = self.byte();
        byte != 0 && byte.is_multiple_of(times)
    }
}
