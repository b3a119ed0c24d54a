package main

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage the agent may pile up on what it keeps: half as much as Go's default. Its state is large and
// seldom changes, and the node's memory is for pods.
const gcPercent = 50

// syncerGCPercent is the syncer's: it waits for the cloud most of its time, and has more of it to collect.
const syncerGCPercent = 25

// saveMemory sets the collector, unless the environment does.
func saveMemory(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// newMemoryTask gives back to the node what reading the whole cluster at once took, when that is done.
func newMemoryTask(synced <-chan struct{}) task {
	return &after{
		name: "memory of the start", first: synced, ready: make(chan struct{}),
		do: func() error { debug.FreeOSMemory(); return nil },
	}
}
