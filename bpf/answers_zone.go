package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// An AnswerZone is the domain of which the agent knows all names, and the SOA record of negative answers in it. NS and Mailbox are
// names in the Domain. TTL is that of the record.
type AnswerZone struct {
	Domain, NS, Mailbox                         string
	TTL, Serial, Refresh, Retry, Expire, MinTTL uint32
	// Complete says that names of the domain that have no entry do not exist, but for those of pods (below pod.<Domain>) and of
	// ports (labels that begin with an underscore), and those below a Service's name that has NameAskBelow.
	Complete bool
}

// SetZone replaces the zone; the zero value means none: then names without an answer are not programs' business.
func (a *Answers) SetZone(z AnswerZone) error {
	view, err := z.view(&a.zone.Secret)
	if err != nil {
		return fmt.Errorf("set the zone %s: %w", z.Domain, err)
	}
	return a.change(func(v *sockDnsView) {
		view.Server, view.Servers = v.Server, v.Servers
		*v = view
	})
}

const typeSOA = 6

// view is the part of the view that is the zone.
func (z AnswerZone) view(secret *[4]uint64) (v sockDnsView, err error) {
	if z == (AnswerZone{}) {
		return v, nil
	}
	domain, err := packName(z.Domain)
	if err != nil {
		return v, err
	}
	soa := make([]byte, 2, 8*len(v.Soa)) // the owner
	soa = binary.BigEndian.AppendUint16(soa, typeSOA)
	soa = binary.BigEndian.AppendUint16(soa, classIN)
	soa = binary.BigEndian.AppendUint32(soa, z.TTL)
	soa = append(soa, 0, 0)
	data := len(soa)
	var at [2]uint8
	for i, text := range []string{z.NS, z.Mailbox} {
		name, err := packName(text)
		if err != nil {
			return v, err
		}
		above := len(name) - len(domain)
		if above < 0 || string(name[above:]) != string(domain) || !beginsLabel(name, above) {
			return v, fmt.Errorf("%s is not in it", text)
		}
		soa = append(soa, name[:above]...)
		at[i] = uint8(min(len(soa), 255))
		soa = append(soa, 0, 0)
	}
	for _, n := range []uint32{z.Serial, z.Refresh, z.Retry, z.Expire, z.MinTTL} {
		soa = binary.BigEndian.AppendUint32(soa, n)
	}
	if len(soa) > 8*len(v.Soa) {
		return v, fmt.Errorf("%w: its SOA record has %d bytes, of %d", ErrTooLarge, len(soa), 8*len(v.Soa))
	}
	binary.BigEndian.PutUint16(soa[data-2:], uint16(len(soa)-data))
	copy(v.Soa[:], nameWords(soa))
	v.SoaBytes, v.SoaNsAt, v.SoaMailboxAt = uint8(len(soa)), at[0], at[1]
	v.Hash, v.DomainBytes, v.DomainLabels = hashName(secret, domain), uint16(len(domain)), labels(domain)
	if z.Complete {
		v.Complete = 1
	}
	return v, nil
}

// labels counts those of a name, without the root.
func labels(name []byte) (n uint8) {
	for at := 0; name[at] != 0; at += 1 + int(name[at]) {
		n++
	}
	return n
}

func beginsLabel(name []byte, at int) bool {
	here := 0
	for here < at {
		here += 1 + int(name[here])
	}
	return here == at
}

// maxDNSServers is MAX_DNS_SERVERS of bpf/c/consts.h.
const maxDNSServers = len(sockDnsView{}.Server)

// SetServers replaces the addresses at which pods ask for names: on port 53 over UDP, programs answer in their place.
func (a *Answers) SetServers(addrs []netip.Addr) error {
	if len(addrs) > maxDNSServers {
		return fmt.Errorf("set DNS servers %v: %w: at most %d", addrs, ErrFull, maxDNSServers)
	}
	return a.change(func(v *sockDnsView) {
		v.Server, v.Servers = [maxDNSServers][4]uint32{}, uint32(len(addrs))
		for i, addr := range addrs {
			v.Server[i] = words(addr)
		}
	})
}

// change makes a view of the current one, and that the current one. It waits for whoever still reads what it writes to.
func (a *Answers) change(edit func(*sockDnsView)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	<-a.settled
	current := atomic.LoadUint32(&a.zone.Current) & 1
	view := a.zone.View[current]
	edit(&view)
	if view == a.zone.View[current] {
		return nil
	}
	a.zone.View[1-current] = view
	atomic.StoreUint32(&a.zone.Current, 1-current)
	settled := make(chan struct{})
	a.settled = settled
	go func() {
		defer close(settled)
		_ = a.grace.wait() // fails only for want of memory, and a program is over long before the next change
	}()
	return nil
}

// How long after a Beat programs say that a name does not exist because it has no entry, and how long they answer at all:
// ABSENCE_SECONDS and ANSWER_SECONDS of bpf/c/consts.h.
const (
	AbsenceGrace = 30 * time.Second
	AnswersGrace = time.Hour
)

// Beat says that the agent lives: see AbsenceGrace and AnswersGrace.
func (a *Answers) Beat() error {
	now, err := Clock()
	if err != nil {
		return err
	}
	atomic.StoreUint64(&a.zone.Alive, uint64(now))
	return nil
}
