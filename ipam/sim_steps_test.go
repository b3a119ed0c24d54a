package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/ipam"
)

// The steps of the state machine.

// pick draws a pod in one of the states.
func (w *machine) pick(states ...holding) *tenant {
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	var found []*tenant
	for _, t := range w.model.tenants {
		if slices.Contains(states, t.state) {
			found = append(found, t)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found[w.rng.IntN(len(found))]
}

func (w *machine) allocate() {
	for range 1 + w.rng.IntN(5) {
		if t := w.pick(absent, unknown); t != nil {
			w.ask(t, time.Duration(1+w.rng.IntN(120))*time.Second)
		}
	}
}

// ask lets a pod wait for its lease in a goroutine of its own.
func (w *machine) ask(t *tenant, patience time.Duration) {
	l := w.life
	w.model.mu.Lock()
	t.before, t.state, t.asked = t.state, asking, time.Now()
	w.model.mu.Unlock()
	w.say("allocate for %s %+v", t.request.Key, t.request)
	l.asking.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, patience)
		defer cancel()
		lease, err := l.pool.Allocate(ctx, t.request)
		switch {
		case l.dead.Load() || errors.Is(err, errDisk):
			w.model.settle(t, unknown)
		case err == nil:
			w.model.granted(t, lease, w.families)
		default:
			w.say("no lease for %s: %v", t.request.Key, err)
			w.model.settle(t, absent)
			if !errors.Is(err, ipam.ErrExhausted) {
				w.model.mu.Lock()
				w.model.breach("allocate for %s: %w", t.request.Key, err)
				w.model.mu.Unlock()
			}
		}
	})
}

// release lets pods go, some with their addresses kept.
func (w *machine) release() {
	for range 1 + w.rng.IntN(4) {
		t := w.pick(leased, leased, unknown)
		if t == nil {
			return
		}
		keep := time.Duration(0)
		if w.rng.IntN(3) == 0 {
			keep = time.Duration(10+w.rng.IntN(300)) * time.Second
		}
		w.say("release %s, keep %s", t.request.Key, keep)
		w.end(t, keep)
	}
}

func (w *machine) end(t *tenant, keep time.Duration) {
	synctest.Wait() // what was granted before is booked before
	w.model.released(t, keep)
	if err := w.life.pool.Release(w.t.Context(), t.request.Key, keep); err == nil && !w.life.dead.Load() {
		w.model.settle(t, absent)
	}
}

// replay is I6: who comes again gets the same.
func (w *machine) replay() {
	t := w.pick(leased)
	if t == nil || w.life.dead.Load() {
		return
	}
	lease, err := w.life.pool.Allocate(w.life.ctx, t.request)
	if w.life.dead.Load() {
		return
	}
	if err != nil || !slices.Equal(lease.Addrs, t.lease.Addrs) || lease.ENI.ID != t.lease.ENI.ID {
		w.model.breach("I6: %s had %s on %s and got %s on %s: %v", t.request.Key, t.lease.Addrs, t.lease.ENI.ID, lease.Addrs, lease.ENI.ID, err)
	}
}

func (w *machine) pass(least, most time.Duration) {
	d := least + time.Duration(w.rng.Int64N(int64(most-least)))
	w.say("%s pass", d)
	time.Sleep(d)
}

// changeWeather draws what goes wrong in the cloud from now on.
func (w *machine) changeWeather() {
	w.calm()
	add := func(what string, f sim.Fault) {
		f.Probability = float64(1+w.rng.IntN(80)) / 100
		w.say("weather: %s %s with %v", what, f.Action, f.Probability)
		w.weather = append(w.weather, w.cloud.Inject(f))
	}
	for range w.rng.IntN(3) {
		action := []string{
			"", "CreateNetworkInterface", "AttachNetworkInterface", "DetachNetworkInterface", "DeleteNetworkInterface", "DescribeNetworkInterfaces",
			"AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "AssignIpv6Addresses", "DescribeVSwitches", "ModifyNetworkInterfaceAttribute",
		}[w.rng.IntN(11)]
		switch w.rng.IntN(3) {
		case 0:
			add("throttling", sim.Fault{Action: action, Code: []string{"Throttling", "Throttling.User", "Throttling.Api"}[w.rng.IntN(3)]})
		case 1:
			add("lost answers", sim.Fault{Action: action, LoseAnswer: true})
		default:
			code := []string{
				"InternalError", "ServiceUnavailable", "Operation.Conflict", "InvalidOperation.InvalidEniState", "InvalidVSwitchId.IpNotEnough",
				"QuotaExceeded.PrivateIpAddress", "MaxEniCountExceeded", "EniPerInstanceLimitExceeded", "SecurityGroupInstanceLimitExceed", "Forbidden.RAM",
				"InvalidOperation.Ipv4CountExceeded", "IdempotentFailed", "UnsupportedParameter",
			}[w.rng.IntN(13)]
			add(code, sim.Fault{Action: action, Code: code})
		}
	}
}

func (w *machine) calm() {
	for _, i := range w.weather {
		i.Remove()
	}
	w.weather = nil
}

func (w *machine) outage() {
	down := !w.life.down.Load()
	w.say("cloud down: %v", down)
	w.life.down.Store(down)
}

// doom lets the process die at one of its next boundaries.
func (w *machine) doom() {
	n := 1 + w.rng.Int64N(40)
	w.say("death in %d steps", n)
	w.life.endAt.Store(w.life.steps.Load() + n)
}

func (w *machine) crash() { w.life.die() }

// restart ends the process in an orderly way.
func (w *machine) restart() {
	w.say("restart")
	w.reboot()
}

func (w *machine) spoilDisk() {
	n := 1 + w.rng.Int64N(3)
	w.say("the disk fails %d times", n)
	w.life.failDisk.Store(n)
}

func (w *machine) configure() {
	synctest.Wait() // what was granted under the old ones is booked
	s := w.settings()
	w.say("configure %+v", s)
	w.model.mu.Lock()
	w.model.now()
	w.model.settings = s
	w.model.mu.Unlock()
	if err := w.life.pool.Configure(s); err != nil {
		w.t.Fatal(err)
	}
}

// steal takes an address from an ENI of the pool, with the rights of somebody else.
func (w *machine) steal() {
	enis := w.ours()
	if len(enis) == 0 {
		return
	}
	e := enis[w.rng.IntN(len(enis))]
	if len(e.PrivateIPs) < 2 {
		return
	}
	addr := e.PrivateIPs[1+w.rng.IntN(len(e.PrivateIPs)-1)]
	w.say("somebody takes %s from %s", addr, e.ID)
	w.model.mu.Lock()
	w.model.stolen[addr] = true
	w.model.mu.Unlock()
	_ = w.others.UnassignIPs(w.t.Context(), e.ID, []netip.Addr{addr}) // the cloud may be failing
}

func (w *machine) detach() {
	enis := w.ours()
	if len(enis) == 0 {
		return
	}
	e := enis[w.rng.IntN(len(enis))]
	w.say("somebody detaches %s", e.ID)
	_ = w.others.DetachENI(w.t.Context(), e.ID, thisNode)
}

// squatters are ENIs of others that take places of this node.
func (w *machine) squatters() []aliyun.ENI {
	return slices.DeleteFunc(w.cloud.ENIs(), func(e aliyun.ENI) bool {
		return e.InstanceID != thisNode || e.Type == aliyun.TypePrimary || isOurs(e)
	})
}

// squat attaches somebody else's ENI to this node, or takes one away.
func (w *machine) squat() {
	if there := w.squatters(); len(there) > 0 {
		w.say("somebody's %s goes", there[0].ID)
		w.sendAway(there[0].ID)
	} else if w.kind.ENIs > 3 {
		w.say("somebody attaches an ENI")
		if e, err := w.addAlien(sim.DefaultPodVSwitch, thisNode, nil); err != nil {
			delete(w.alien, e.ID)
		}
	}
}

func (w *machine) sendAway(id string) {
	delete(w.alien, id)
	_ = w.others.DetachENI(w.t.Context(), id, thisNode) // the cloud may be failing
}

// overlook lets listings leave out an ENI that is in use, for less than half a minute and once until it was seen again:
// that is no reason to forget it.
func (w *machine) overlook() {
	enis := slices.DeleteFunc(w.ours(), func(e aliyun.ENI) bool { return e.Status != aliyun.StatusInUse || w.unseen[e.ID] })
	if len(enis) == 0 || w.life.dead.Load() {
		return
	}
	id := enis[w.rng.IntN(len(enis))].ID
	w.say("%s is not listed", id)
	w.unseen[id] = true
	w.life.hidden.Store(id)
	for range 1 + w.rng.IntN(3) {
		w.life.pool.Resync()
		time.Sleep(time.Duration(w.rng.IntN(9)) * time.Second)
	}
	w.life.hidden.Store("")
}

// crowd fills or empties a vSwitch.
func (w *machine) crowd() {
	v := podVSwitches[w.rng.IntN(len(podVSwitches))]
	if w.rng.IntN(2) == 0 {
		n := w.rng.IntN(4)
		w.say("others leave %d addresses of %s", n, v)
		w.fill(v, n)
	} else {
		w.say("others leave %s", v)
		w.empty(v)
	}
}
