package sim

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// maxAddresses bounds the slots of a detached ENI by family, the primary address included.
var maxAddresses = map[aliyun.Family]int{aliyun.IPv4: 50, aliyun.IPv6: 10}

// An eniState is what the API shows of an ENI. Slices and maps in it are replaced, never changed, so a copy stays true.
type eniState struct {
	aliyun.ENI
	seq             int
	subnet          *subnet
	name            string
	description     string
	resourceGroup   string
	sourceDestCheck bool
	queuesAsked     int // zero: as many as the instance type gives
	device          int // index at the instance
	attachedAt      time.Time
}

// An eni is the cloud's side of an ENI. Fields change only with both op and Cloud.mu held, so either is enough to read
// them; plugged and gone are op's alone, tags are Cloud.mu's alone.
type eni struct {
	op sync.Mutex // orders changes of this ENI with their Fabric calls; taken before Cloud.mu
	eniState
	plugged bool // the Fabric has it
	gone    bool // deleted; whoever waited for op finds nothing
	changes int  // counted for the seed
	past    timeline
}

// snapshot is what a test sees.
func (e *eniState) snapshot() aliyun.ENI {
	s := e.ENI
	s.PrivateIPs = slices.Clone(e.PrivateIPs)
	s.IPv6s = slices.Clone(e.IPv6s)
	s.IPv4Prefixes = slices.Clone(e.IPv4Prefixes)
	s.SecurityGroupIDs = slices.Clone(e.SecurityGroupIDs)
	s.Tags = maps.Clone(e.Tags)
	return s
}

// slots is how much of its limit the ENI uses.
func (e *eniState) slots(f aliyun.Family) int {
	if f == aliyun.IPv6 {
		return len(e.IPv6s)
	}
	return len(e.PrivateIPs) + len(e.IPv4Prefixes)
}

// holdings are all addresses and prefixes of the ENI, the primary address first.
func (e *eniState) holdings() grant {
	return grant{addrs: slices.Concat(e.PrivateIPs, e.IPv6s), prefixes: e.IPv4Prefixes}
}

// add puts a grant on the ENI. The caller holds e.op and c.mu.
func (c *Cloud) add(e *eni, g grant) {
	for _, a := range g.all() {
		c.byAddr[a] = e
	}
	for _, a := range g.addrs {
		list := e.addrs(aliyun.FamilyOf(a))
		*list = append(slices.Clip(*list), a) // a new array: Port and answers share the old one
	}
	e.IPv4Prefixes = slices.Concat(e.IPv4Prefixes, g.prefixes)
}

// remove takes a grant from the ENI and gives it back to the vSwitch. The caller holds e.op and c.mu.
func (c *Cloud) remove(e *eni, g grant) {
	for _, a := range g.all() {
		delete(c.byAddr, a)
	}
	for _, f := range []aliyun.Family{aliyun.IPv4, aliyun.IPv6} {
		list := e.addrs(f)
		*list = slices.DeleteFunc(slices.Clone(*list), func(a netip.Addr) bool { return slices.Contains(g.addrs, a) })
	}
	e.IPv4Prefixes = slices.DeleteFunc(slices.Clone(e.IPv4Prefixes), func(p netip.Prefix) bool { return slices.Contains(g.prefixes, p) })
	e.subnet.release(g)
}

func (e *eniState) addrs(f aliyun.Family) *[]netip.Addr {
	if f == aliyun.IPv6 {
		return &e.IPv6s
	}
	return &e.PrivateIPs
}

// withENI runs change while no other change of the ENI is under way.
func (c *Cloud) withENI(id string, change func(*eni) error) error {
	if !strings.HasPrefix(id, "eni-") {
		return refuse(codeEniMalformed, "The specified NetworkInterfaceId %q is not valid.", id)
	}
	c.mu.Lock()
	e := c.enis[id]
	c.mu.Unlock()
	if e == nil {
		return refuse(codeEniNotFound, "The specified NetworkInterfaceId %q does not exist.", id)
	}
	e.op.Lock()
	defer e.op.Unlock()
	if e.gone {
		return refuse(codeEniNotFound, "The specified NetworkInterfaceId %q does not exist.", id)
	}
	return change(e)
}

// dropENI forgets an ENI and frees its addresses. The caller holds e.op and c.mu.
func (c *Cloud) dropENI(e *eni) {
	e.gone = true
	delete(c.enis, e.ID)
	for _, a := range e.holdings().all() {
		delete(c.byAddr, a)
	}
	e.subnet.release(e.holdings())
	c.note(e)
}

// macOf makes addresses under the prefix the cloud uses.
func macOf(seq int) string {
	return fmt.Sprintf("00:16:3e:%02x:%02x:%02x", byte(seq>>16), byte(seq>>8), byte(seq))
}

var deleteENIParams = []string{"NetworkInterfaceId"}

func (c *Cloud) deleteENI(in input) (object, error) {
	id, err := in.need("NetworkInterfaceId")
	if err != nil {
		return nil, err
	}
	err = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if e.Status != aliyun.StatusAvailable {
			return refuse(codeEniState, "The ENI %s is %s, which does not allow to delete it.", e.ID, e.Status)
		}
		e.Status = aliyun.StatusDeleting
		c.note(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.later(c.lasts(aliyun.StatusDeleting), func() { c.finishDelete(id) })
	return object{}, nil
}

func (c *Cloud) finishDelete(id string) {
	// It cannot fail: nothing else deletes an ENI that is Deleting.
	_ = c.withENI(id, func(e *eni) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.dropENI(e)
		return nil
	})
}
