// Package parts tries what a guest's kernel must have before tests of nearpath mean anything there, by using it: a
// module that loads proves little.
package parts
