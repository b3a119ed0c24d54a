package autopath

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// The searches of three resolvers, as far as they can be told apart by what a server answers: which names they ask for,
// what lets them go on, what ends them, and what their caller gets.

// A network is whatever answers a question.
type network func(name string, qtype uint16) *dns.Msg

// A resolverConf is what resolv.conf and the caller say.
type resolverConf struct {
	search []string // with final dots
	ndots  int
	types  []uint16
}

// A result is what getaddrinfo gives to a program.
type result struct {
	addrs []netip.Addr // sorted
	err   string       // "" with addresses
}

func (r result) equal(o result) bool { return r.err == o.err && slices.Equal(r.addrs, o.addrs) }

type resolver func(resolverConf, network, string) result

const (
	errNoName = "no such name"
	errNoData = "no address"
	errAgain  = "temporary failure"
	errFail   = "failure"
)

// addresses are what a stub takes out of an answer: those of the chain that begins at the name. Owners are not looked
// at by musl, which makes no difference for honest servers.
func addresses(m *dns.Msg) []netip.Addr {
	var addrs []netip.Addr
	owner := lower(m.Question[0].Name)
	for _, rr := range m.Answer {
		if lower(rr.Header().Name) != owner {
			continue
		}
		switch rr := rr.(type) {
		case *dns.CNAME:
			owner = lower(rr.Target)
		case *dns.A:
			addr, _ := netip.AddrFromSlice(rr.A.To4())
			addrs = append(addrs, addr)
		case *dns.AAAA:
			addr, _ := netip.AddrFromSlice(rr.AAAA)
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func gather(replies []*dns.Msg) []netip.Addr {
	var addrs []netip.Addr
	for _, m := range replies {
		addrs = append(addrs, addresses(m)...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

func (c resolverConf) query(n network, name string) []*dns.Msg {
	replies := make([]*dns.Msg, len(c.types))
	for i, qtype := range c.types {
		replies[i] = n(name, qtype)
	}
	return replies
}

// glibc is resolv/res_query.c of glibc 2.41: it goes on after NXDOMAIN, NODATA and SERVFAIL, and ends at the first name
// with an answer section, whatever is in it. An error of the name as it is, asked first, is the one reported; else
// NODATA before SERVFAIL before NXDOMAIN.
func glibc(c resolverConf, n network, name string) result {
	dots, rooted := strings.Count(name, "."), strings.HasSuffix(name, ".")
	found, herr := result{}, ""
	try := func(full string) bool {
		if len(full) > maxName {
			herr = errFail // res_mkquery refuses
			return false
		}
		replies := c.query(n, full)
		if slices.ContainsFunc(replies, func(m *dns.Msg) bool { return m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 }) {
			if found.addrs = gather(replies); len(found.addrs) == 0 {
				found.err = errNoData
			}
			return true
		}
		herr = glibcError(replies)
		return false
	}
	absolute, first := strings.TrimSuffix(name, ".")+".", ""
	if dots >= c.ndots || rooted {
		if try(absolute) {
			return found
		}
		if first = herr; rooted {
			return result{err: first}
		}
	}
	sawNoData, sawServFail, sawRoot, done := false, false, false, false
	for _, domain := range c.search {
		if done {
			break
		}
		sawRoot = sawRoot || domain == "."
		if try(absolute + strings.TrimPrefix(domain, ".")) {
			return found
		}
		sawNoData = sawNoData || herr == errNoData
		sawServFail = sawServFail || herr == errAgain
		done = herr == errFail
	}
	if first == "" && !sawRoot && try(absolute) {
		return found
	}
	switch {
	case first != "":
		return result{err: first}
	case sawNoData:
		return result{err: errNoData}
	case sawServFail:
		return result{err: errAgain}
	}
	return result{err: herr}
}

// glibcError is how __res_context_query judges replies without answers.
func glibcError(replies []*dns.Msg) string {
	rcode := replies[0].Rcode
	if rcode == dns.RcodeSuccess {
		rcode = replies[len(replies)-1].Rcode
	}
	switch rcode {
	case dns.RcodeNameError:
		return errNoName
	case dns.RcodeSuccess:
		return errNoData
	case dns.RcodeServerFailure:
		return errAgain
	}
	return errFail
}

// musl is src/network/lookup_name.c of musl 1.2.5: names with ndots dots are not searched for, and only NXDOMAIN lets it
// go on.
func musl(c resolverConf, n network, name string) result {
	absolute := strings.TrimSuffix(name, ".") + "."
	if strings.Count(name, ".") < c.ndots && !strings.HasSuffix(name, ".") {
		for _, domain := range c.search {
			if domain == "." || len(absolute+domain) > maxName {
				continue
			}
			if r := muslTry(c, n, absolute+domain); r.err != errNoName {
				return r
			}
		}
	}
	return muslTry(c, n, absolute)
}

func muslTry(c resolverConf, n network, name string) result {
	replies := c.query(n, name)
	for _, m := range replies {
		switch m.Rcode {
		case dns.RcodeServerFailure:
			return result{err: errAgain}
		case dns.RcodeNameError:
			return result{err: errNoName}
		case dns.RcodeSuccess:
		default:
			return result{err: errFail}
		}
	}
	if addrs := gather(replies); len(addrs) > 0 {
		return result{addrs: addrs}
	}
	return result{err: errNoData}
}

// golang is net/dnsclient_unix.go of Go 1.26: it goes on whatever happened, and reports the error of the name as it is,
// or else the first.
func golang(c resolverConf, n network, name string) result {
	rooted := strings.HasSuffix(name, ".")
	absolute := strings.TrimSuffix(name, ".") + "."
	names := []string{absolute}
	if !rooted {
		var searched []string
		for _, domain := range c.search {
			if domain != "." && len(absolute+domain) <= maxName {
				searched = append(searched, absolute+domain)
			}
		}
		if strings.Count(name, ".") >= c.ndots {
			names = append(names, searched...)
		} else {
			names = append(searched, absolute)
		}
	}
	last := ""
	for _, full := range names {
		replies := c.query(n, full)
		if addrs := gather(replies); len(addrs) > 0 {
			return result{addrs: addrs}
		}
		for _, m := range replies {
			err := errNoName // NODATA is the same error
			if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
				err = errAgain
			}
			if last == "" || full == absolute {
				last = err
			}
		}
	}
	return result{err: last}
}
