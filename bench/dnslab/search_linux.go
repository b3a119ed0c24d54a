package dnslab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Searches are lookups of names as a C library does them, one after another, the names by turns: it asks for both address types
// of one domain of the search after another, until one of them gives records, with a socket for each domain (resolv.conf(5);
// glibc, resolv/res_query.c). Names with as many dots as Ndots are asked for as they are first.
type Searches struct {
	Server netip.AddrPort `json:"server"`
	Names  []string       `json:"names"`
	Search []string       `json:"search"`
	Ndots  int            `json:"ndots"`
	// Times is how many there are; 0: as many as begin within For.
	Times int           `json:"times,omitempty"`
	For   time.Duration `json:"for,omitempty"`
	// Patience bounds the wait for one answer; 0: two seconds.
	Patience time.Duration `json:"patience,omitempty"`
}

// Searched is what searches took.
type Searched struct {
	Lookups   int `json:"lookups"`
	Questions int `json:"questions"` // of all of them
}

func (s Searches) do() (done Searched, err error) {
	if s.Patience == 0 {
		s.Patience = 2 * time.Second
	}
	end := time.Now().Add(s.For)
	for done.Lookups < s.Times || s.Times == 0 && time.Now().Before(end) {
		name := s.Names[done.Lookups%len(s.Names)]
		asked, err := s.lookup(name)
		if err != nil {
			return done, fmt.Errorf("look %s up at %s: %w", name, s.Server, err)
		}
		done.Lookups++
		done.Questions += asked
	}
	return done, nil
}

// candidates are the names to ask for, in order.
func candidates(name string, search []string, ndots int) (full []string) {
	for _, domain := range search {
		full = append(full, dns.Fqdn(name+"."+domain))
	}
	if strings.Count(name, ".") >= ndots {
		return append([]string{dns.Fqdn(name)}, full...)
	}
	return append(full, dns.Fqdn(name))
}

// lookup returns how many questions it took.
func (s Searches) lookup(name string) (asked int, err error) {
	for _, candidate := range candidates(name, s.Search, s.Ndots) {
		found, err := s.both(candidate)
		asked += 2
		if err != nil || found {
			return asked, err
		}
	}
	return asked, fmt.Errorf("no domain of the search has it")
}

// both asks for the addresses of either type and tells whether there are any.
func (s Searches) both(name string) (found bool, err error) {
	socket, err := dial(s.Server, s.Patience)
	if err != nil {
		return false, err
	}
	defer unix.Close(socket.fd)
	waiting := []uint16{}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		query, err := new(dns.Msg).SetQuestion(name, kind).Pack()
		if err != nil {
			return false, err
		}
		if err := socket.send(query); err != nil {
			return false, err
		}
		waiting = append(waiting, binary.BigEndian.Uint16(query))
	}
	for len(waiting) > 0 {
		answer, err := socket.receive()
		if err != nil {
			return false, err
		}
		id, records, err := readAnswer(answer)
		at := slices.Index(waiting, id)
		if err != nil || at < 0 {
			return false, fmt.Errorf("%d bytes that answer nothing of it: %w", len(answer), err)
		}
		waiting = slices.Delete(waiting, at, at+1)
		found = found || records > 0
	}
	return found, nil
}

// readAnswer returns what a client looks at before anything else: the header. Failures are errors, and names that are not there
// have no records.
func readAnswer(answer []byte) (id uint16, records int, err error) {
	const header, rcode = 12, 0x0f
	if len(answer) < header {
		return 0, 0, fmt.Errorf("it has no header")
	}
	if code := int(answer[3] & rcode); code != dns.RcodeSuccess && code != dns.RcodeNameError {
		return 0, 0, fmt.Errorf("status %s", dns.RcodeToString[code])
	}
	return binary.BigEndian.Uint16(answer), int(binary.BigEndian.Uint16(answer[6:])), nil
}
