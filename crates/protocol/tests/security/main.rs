//! What keeps things from others: keys, tokens, certificates, sealed files, statements.

#[cfg(test)]
mod certificates;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod sealing;
#[cfg(test)]
mod stock_age;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tokens;
