package sim

import (
	"maps"
	"net/http"
	"slices"
)

// A Fault goes wrong in one or more of the next calls. Either Code or LoseAnswer is set.
type Fault struct {
	Action string // empty: any
	Times  int    // how many calls it meets; zero: one
	// Code, HTTPStatus (zero: 400) and Message answer the call, which has no effect.
	Code       string
	HTTPStatus int
	Message    string
	// LoseAnswer carries the call out and cuts the connection instead of answering.
	LoseAnswer bool
}

// Inject adds a fault. Faults meet calls in the order they were injected.
func (c *Cloud) Inject(f Fault) {
	f.Times = max(f.Times, 1)
	if f.HTTPStatus == 0 {
		f.HTTPStatus = http.StatusBadRequest
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
}

// Throttle refuses the next n calls of the action (empty: any) as too many.
func (c *Cloud) Throttle(action string, n int) {
	c.Inject(Fault{Action: action, Times: n, Code: "Throttling.User", Message: "Request was denied due to user flow control."})
}

// Calls returns how many authenticated calls of each action there were, refused ones included.
func (c *Cloud) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// record counts the call and returns the fault it meets, if any.
func (c *Cloud) record(name string) *Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[name]++
	i := slices.IndexFunc(c.faults, func(f *Fault) bool { return f.Action == "" || f.Action == name })
	if i < 0 {
		return nil
	}
	f := c.faults[i]
	if f.Times--; f.Times == 0 {
		c.faults = slices.Delete(c.faults, i, i+1)
	}
	return f
}
