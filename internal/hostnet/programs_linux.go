package hostnet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

// glance is how often it is looked whether links still have their programs: the kernel tells nobody when one is taken off.
const glance = 400 * time.Millisecond

// watchPrograms signals when a link has lost its program, until the context ends.
func (h *Host) watchPrograms(ctx context.Context) {
	ticks := time.NewTicker(glance)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		if h.lostProgram() {
			h.wake()
		}
	}
}

// lostProgram leaves links that are gone to the events that tell so.
func (h *Host) lostProgram() (lost bool) {
	h.pass.Lock()
	defer h.pass.Unlock()
	err := h.netns.Do(func(ns.NetNS) error {
		for _, a := range h.attached {
			ok, err := h.programs.Attached(a.Role, a.Index)
			lost = lost || err == nil && !ok
		}
		return nil
	})
	return lost && err == nil
}

// readPrograms asks which programs are attached. What cannot be told counts as missing: attaching says why.
func (h *Host) readPrograms(wanted Wanted, found *Found, o *outcome) {
	if h.programs == nil {
		return
	}
	found.Attached = map[Attachment]bool{}
	for _, a := range attachments(wanted, *found) {
		ok, err := h.programs.Attached(a.Role, a.Index)
		if err != nil {
			o.add(Step{Part: PartRest}, fmt.Errorf("program %s of link %d: %w", a.Role, a.Index, err))
		}
		found.Attached[a] = ok
	}
	if h.node != nil && time.Since(h.nodeTold) >= h.interval { // somebody may have changed the maps, which cannot be seen
		if err := h.programs.SetNode(*h.node); err != nil {
			o.add(Step{Part: PartRest}, fmt.Errorf("%s: %w", h.node, err))
		}
		h.nodeTold = time.Now()
	}
	found.Node, found.Detached = h.node, h.detached
}

// notePrograms remembers what the links and the datapath have now. It needs h.pass.
func (h *Host) notePrograms(found Found, steps []Step, o outcome) {
	have := found.Attached
	for _, s := range steps {
		if o.ofStep(s) != nil {
			continue
		}
		switch op := s.Op.(type) {
		case Attach:
			have[op.Attachment] = true
			delete(h.detached, op.Attachment)
		case Detach:
			delete(have, op.Attachment)
			h.detached[op.Attachment] = true
		case SetNode:
			h.node, h.nodeTold = &op, time.Now()
		}
	}
	maps.DeleteFunc(h.detached, func(a Attachment, _ bool) bool {
		return !slices.ContainsFunc(found.Links, func(l Link) bool { return l.Index == a.Index })
	})
	h.attached = h.attached[:0]
	for a, ok := range have {
		if ok {
			h.attached = append(h.attached, a)
		}
	}
}
