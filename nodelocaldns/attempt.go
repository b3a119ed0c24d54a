package nodelocaldns

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/coredns/caddy"
)

// An attempt is a Corefile that caddy is given, and the instance that caddy makes of it. When that fails after plugins have
// started, caddy forgets the instance without ending them, so who asked for it must know it. It is a [caddy.Input].
type attempt struct {
	corefile []byte
	instance *caddy.Instance // nil until caddy has read the Corefile
}

func newAttempt(corefile []byte) *attempt { return &attempt{corefile: corefile} }

// Body is asked for when the instance is in caddy's list, and before any plugin is set up.
func (a *attempt) Body() []byte {
	for _, instance := range caddy.Instances() {
		if instance.Caddyfile() == caddy.Input(a) {
			a.instance = instance
		}
	}
	return a.corefile
}

func (a *attempt) Path() string       { return "Corefile" }
func (a *attempt) ServerType() string { return "dns" }

// start makes the panic of a plugin an error: a line of a Corefile must not end the agent.
func (a *attempt) start() (instance *caddy.Instance, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a plugin failed: %v", r)
		}
	}()
	return caddy.Start(a)
}

var errPanic = errors.New("a plugin failed: the line [PANIC] of the log says how")

// replace makes the instance serve in the place of another one. When it returns an error, the other one goes on.
func (a *attempt) replace(running *caddy.Instance) (*caddy.Instance, error) {
	next, err := running.Restart(a)
	switch {
	case err == nil && next != nil:
		return next, nil
	case a.instance != nil && !slices.Contains(caddy.Instances(), running):
		return a.instance, nil // it serves; a plugin of the other one did not end well
	case err == nil:
		return nil, errPanic // which caddy has recovered
	}
	return nil, err
}

// discard ends the plugins of an instance that does not serve. Those that had not started yet may wait for ever for what
// they would have started, or fail.
func (a *attempt) discard() {
	if a.instance == nil {
		return
	}
	_ = a.instance.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, end := range slices.Concat(a.instance.OnShutdown, a.instance.OnFinalShutdown) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer func() { _ = recover() }()
			_ = end()
		}()
		select {
		case <-ended:
		case <-ctx.Done(): // those that are left are not waited for
		}
	}
	a.instance = nil
}
