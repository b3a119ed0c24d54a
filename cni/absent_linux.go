package cni

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

// eniReturn bounds how long the lease of a whole ENI is kept for the ENI to come back to the node: it may have been detached
// by hand, and then never does. An ADD that gets an ENI that is not there is refused, and tried again.
const eniReturn = 10 * time.Minute

// absent are the attachments that are taken apart but for their ENI, which went with a namespace that cannot be entered: the
// kernel is still destroying it, or a process holds it. The zero value is ready; it is safe for concurrent use.
type absent struct {
	mu   sync.Mutex // guards what follows
	pods map[Key]absentENI
}

type absentENI struct {
	mac   net.HardwareAddr
	since time.Time
	over  bool // it has been waited for long enough
}

// add returns false if the attachment is waited for already, or has been for long enough.
func (a *absent) add(k Key, mac net.HardwareAddr) (first, over bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if one, waits := a.pods[k]; waits {
		return false, one.over
	}
	if a.pods == nil {
		a.pods = map[Key]absentENI{}
	}
	a.pods[k] = absentENI{mac: mac, since: time.Now()}
	return true, false
}

func (a *absent) remove(k Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pods, k)
}

// waits says whether there is nothing to do for the attachment but to wait.
func (a *absent) waits(k Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	one, waits := a.pods[k]
	return waits && !one.over
}

// due lists the attachments whose ENI is on the node again, or has been waited for long enough, and waits for them no longer.
func (a *absent) due(now time.Time, state hostState) (keys []Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, one := range a.pods {
		switch {
		case state.hasMAC(one.mac):
			delete(a.pods, k)
		case now.Sub(one.since) >= eniReturn:
			one.over = true
			a.pods[k] = one
		default:
			continue
		}
		keys = append(keys, k)
	}
	return keys
}

// keepWithENI says whether record and lease must be kept because the pod's ENI is not on the node. An ENI that is not in a
// pod that can be entered is in none, and is not waited for.
func (s *Server) keepWithENI(n namespaces, w Wiring) (bool, error) {
	_, leased := s.config.Addresses.Lookup(w.Key)
	mac := w.eniMAC()
	if w.Datapath != Exclusive || n.pod != nil || !leased || mac == nil {
		s.absent.remove(w.Key)
		return false, nil
	}
	there := false
	err := s.host.Do(func(ns.NetNS) error {
		l, err := findENI(mac, 0)
		there = l != nil
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for ENI %s on the node: %w", mac, err)
	}
	if there {
		s.absent.remove(w.Key)
		return false, nil
	}
	switch first, over := s.absent.add(w.Key, mac); {
	case over:
		s.absent.remove(w.Key)
		s.report("ENINotReturned", fmt.Sprintf("ENI %s did not come back from deleted container %s within %s; its lease is given up", mac, w.Key.ContainerID, eniReturn))
		return false, nil
	case first:
		s.report("ENINotReturned", fmt.Sprintf("ENI %s is not back from deleted container %s, whose network namespace is not gone yet; its lease is kept until it is", mac, w.Key.ContainerID))
	}
	return true, nil
}
