package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/nearpath/nearpath/internal/strict"
)

// A Fault goes wrong in calls of an action. Call, Every and Probability say in which ones; with none of them, in the next.
// In files and over HTTP it has the keys of its tags.
type Fault struct {
	// Action is met; empty: any of the API, which excludes Metadata, the name of requests to the metadata service.
	Action string `json:"action"`
	// Call meets the n-th call from the injection on, the first being 1. Every meets each n-th, Probability each with that
	// chance. Conditions that are set must all be true.
	Call        int     `json:"call"`
	Every       int     `json:"every"`
	Probability float64 `json:"probability"`
	// Times is how many calls it meets; zero: one, or all with Every or Probability; negative: all.
	Times int `json:"times"`
	// Code, HTTPStatus (zero: the code's own) and Message answer the call, which has no effect.
	Code       string `json:"code"`
	HTTPStatus int    `json:"httpStatus"`
	Message    string `json:"message"`
	// LoseAnswer carries the call out and cuts the connection instead of answering.
	LoseAnswer bool `json:"loseAnswer"`
	// Hang holds the call until it is released: before the effect, which does not come about if the client goes away
	// meanwhile, or after it.
	Hang HangPoint `json:"hang"`
	// Before and After run before and after the effect, with the call under way. A call that is refused has only the first.
	Before func(Call) `json:"-"`
	After  func(Call) `json:"-"`
}

// A HangPoint says where a call hangs.
type HangPoint string

// Where a call may hang; empty: nowhere.
const (
	HangBefore HangPoint = "before"
	HangAfter  HangPoint = "after"
)

// metadataCalls stands for requests to the metadata service where actions are named.
const metadataCalls = "Metadata"

// check are the rules of a fault that is written down somewhere.
func (f Fault) check(path string, known []string) []strict.Rule {
	rules := []strict.Rule{
		{
			OK: f.Code != "" || f.LoseAnswer || f.Hang != "" || f.Before != nil || f.After != nil, Path: path + "code", Value: f.Code,
			Fix: "set code, loseAnswer or hang",
		},
		{OK: f.Code == "" || !f.LoseAnswer, Path: path + "loseAnswer", Value: f.LoseAnswer, Fix: "set code or loseAnswer, not both"},
		{OK: f.Hang == "" || f.Hang == HangBefore || f.Hang == HangAfter, Path: path + "hang", Value: f.Hang, Fix: "use before or after"},
		{OK: f.Probability >= 0 && f.Probability <= 1, Path: path + "probability", Value: f.Probability, Fix: "use a number from 0 to 1"},
		{OK: f.Call >= 0, Path: path + "call", Value: f.Call, Fix: "use a number of at least 1, or leave it out"},
		{OK: f.Every >= 0, Path: path + "every", Value: f.Every, Fix: "use a number of at least 1, or leave it out"},
		{
			OK: f.HTTPStatus == 0 || f.HTTPStatus >= 400 && f.HTTPStatus <= 599, Path: path + "httpStatus", Value: f.HTTPStatus,
			Fix: "use a number from 400 to 599, or leave it out",
		},
	}
	if f.Action != "" {
		rules = append(rules, actionRule(path+"action", f.Action, known))
	}
	return rules
}

// maxInjected is how many faults are remembered before those that met all they shall are forgotten.
const maxInjected = 1000

// An Injection is a Fault at work.
type Injection struct {
	ID    string
	fault Fault
	cloud *Cloud

	seen, met, left int           // Cloud.mu guards them; left is negative without a limit, zero at the end
	waiting         int           // calls that hang; Cloud.mu guards it
	changed         chan struct{} // closed and replaced when waiting or met change; Cloud.mu guards it
	released        chan struct{} // closed to release
	isReleased      bool          // Cloud.mu guards it
}

// Inject adds a fault. Of several that meet a call, the oldest does.
func (c *Cloud) Inject(f Fault) *Injection {
	if f.Times == 0 {
		f.Times = 1
		if f.Every > 0 || f.Probability > 0 {
			f.Times = -1
		}
	}
	if f.HTTPStatus == 0 {
		f.HTTPStatus = statusOf(f.Code)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, _ := c.nextID("fault")
	i := &Injection{ID: id, fault: f, cloud: c, left: f.Times, changed: make(chan struct{}), released: make(chan struct{})}
	if len(c.injected) >= maxInjected {
		c.injected = slices.DeleteFunc(c.injected, func(i *Injection) bool { return i.left == 0 && i.waiting == 0 })
	}
	c.injected = append(c.injected, i)
	return i
}

// Throttle refuses the next n calls of the action (empty: any) as too many.
func (c *Cloud) Throttle(action string, n int) {
	c.Inject(Fault{Action: action, Times: n, Code: codeThrottledUser, Message: "Request was denied due to user flow control."})
}

// Calls returns how many authenticated calls of each action there were, refused ones included.
func (c *Cloud) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// meet counts the call and returns what it meets, if anything, and its number among those of the action.
func (c *Cloud) meet(name string) (met *Injection, number int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[name]++
	number = c.calls[name]
	for _, i := range c.injected {
		if i.left == 0 || i.fault.Action != name && (i.fault.Action != "" || name == metadataCalls) {
			continue
		}
		i.seen++
		if met == nil && i.due() {
			met = i
		}
	}
	if met == nil {
		return nil, number
	}
	met.met++
	met.signal()
	met.left--
	return met, number
}

// due reports whether the fault meets the call it has just seen. The caller holds Cloud.mu.
func (i *Injection) due() bool {
	f := &i.fault
	switch {
	case f.Call > 0 && i.seen != f.Call, f.Every > 0 && i.seen%f.Every != 0:
		return false
	case f.Probability > 0:
		return i.cloud.rng("fault "+i.ID, i.seen).Float64() < f.Probability
	}
	return true
}

// signal wakes those who wait for a change. The caller holds Cloud.mu.
func (i *Injection) signal() {
	close(i.changed)
	i.changed = make(chan struct{})
}

// Release lets go what hangs, now and later.
func (i *Injection) Release() {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	if !i.isReleased {
		i.isReleased = true
		close(i.released)
	}
}

// Remove ends the fault and releases what hangs.
func (i *Injection) Remove() {
	i.cloud.mu.Lock()
	i.left = 0
	i.cloud.mu.Unlock()
	i.Release()
}

// Met returns how many calls the fault met, and how many of them hang now.
func (i *Injection) Met() (met, hanging int) {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	return i.met, i.waiting
}

// WaitHanging waits until a call hangs.
func (i *Injection) WaitHanging(ctx context.Context) error {
	for {
		i.cloud.mu.Lock()
		hangs, changed := i.waiting > 0, i.changed
		i.cloud.mu.Unlock()
		if hangs {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for a call to hang in %s: %w", i.ID, context.Cause(ctx))
		}
	}
}

// hang holds the caller at the point, if the fault has it, and reports whether it was released.
func (i *Injection) hang(ctx context.Context, at HangPoint) bool {
	if i == nil || i.fault.Hang != at {
		return true
	}
	i.count(1)
	defer i.count(-1)
	select {
	case <-i.released:
		return true
	case <-ctx.Done():
	case <-i.cloud.done:
	}
	return false
}

func (i *Injection) count(n int) {
	i.cloud.mu.Lock()
	defer i.cloud.mu.Unlock()
	i.waiting += n
	i.signal()
}
