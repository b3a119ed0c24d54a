package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// An Op is one write to the maps.
type Op interface {
	fmt.Stringer
	Apply(Maps) error
}

// PutVerdict says what a set allows to a class.
type PutVerdict struct {
	Key     VerdictKey
	Allowed []Interval
}

// DeleteVerdict takes back what nobody looks up any more.
type DeleteVerdict struct{ Key VerdictKey }

// PutPeer gives an address its class.
type PutPeer struct {
	Addr  netip.Addr
	Class uint64
}

// DeletePeer leaves an address to the networks that it is in.
type DeletePeer struct{ Addr netip.Addr }

// PutCIDR gives a network its class.
type PutCIDR struct {
	Prefix netip.Prefix
	Class  uint64
}

// DeleteCIDR leaves a network to the one around it.
type DeleteCIDR struct{ Prefix netip.Prefix }

// PutPod puts a pod under its sets.
type PutPod struct {
	Number uint16
	Sets   PodSets
}

// Bump has tracked connections judged again.
type Bump struct{}

// Grace waits for programs that may use what was before.
type Grace struct{}

// Apply implements Op, as the others do.
func (o PutVerdict) Apply(m Maps) error { return m.PutVerdict(o.Key, o.Allowed) }

// Apply implements Op.
func (o DeleteVerdict) Apply(m Maps) error { return m.DeleteVerdict(o.Key) }

// Apply implements Op.
func (o PutPeer) Apply(m Maps) error { return m.PutPeer(o.Addr, o.Class) }

// Apply implements Op.
func (o DeletePeer) Apply(m Maps) error { return m.DeletePeer(o.Addr) }

// Apply implements Op.
func (o PutCIDR) Apply(m Maps) error { return m.PutCIDR(o.Prefix, o.Class) }

// Apply implements Op.
func (o DeleteCIDR) Apply(m Maps) error { return m.DeleteCIDR(o.Prefix) }

// Apply implements Op.
func (o PutPod) Apply(m Maps) error { return m.PutPod(o.Number, o.Sets) }

// Apply implements Op.
func (o Bump) Apply(m Maps) error { return m.Bump() }

// Apply implements Op.
func (o Grace) Apply(m Maps) error { return m.Grace() }

func (o PutVerdict) String() string {
	texts := make([]string, len(o.Allowed))
	for i, points := range o.Allowed {
		texts[i] = describe(points)
	}
	return fmt.Sprintf("put verdict of set %x about class %x: [%s]", o.Key.Set, o.Key.Class, strings.Join(texts, " "))
}

func (o DeleteVerdict) String() string {
	return fmt.Sprintf("delete verdict of set %x about class %x", o.Key.Set, o.Key.Class)
}
func (o PutPeer) String() string    { return fmt.Sprintf("put peer %s: class %x", o.Addr, o.Class) }
func (o DeletePeer) String() string { return fmt.Sprintf("delete peer %s", o.Addr) }
func (o PutCIDR) String() string    { return fmt.Sprintf("put network %s: class %x", o.Prefix, o.Class) }
func (o DeleteCIDR) String() string { return fmt.Sprintf("delete network %s", o.Prefix) }
func (o PutPod) String() string {
	return fmt.Sprintf("put pod %d: ingress %x, egress %x", o.Number, o.Sets[Ingress], o.Sets[Egress])
}
func (o Bump) String() string  { return "begin a generation" }
func (o Grace) String() string { return "wait for running programs" }
