// Package churn holds node tests that change Services, kill agents and upgrade them under load, and then look at every
// single connection that was made meanwhile: where it went, when, and whether that was right.
package churn
