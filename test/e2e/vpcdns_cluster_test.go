//go:build cluster

package e2e

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/test/netlab"
)

// vpcDNS is the resolver of the VPC: whom nodes ask for names outside the cluster.
type vpcDNS struct{ records []dns.RR }

// serveVPCDNS answers at port 53 of a machine until the test ends.
func serveVPCDNS(t *testing.T, at *netlab.NetNS, addr netip.Addr, records []string) {
	t.Helper()
	v := new(vpcDNS)
	for _, text := range records {
		record, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		v.records = append(v.records, record)
	}
	var packets net.PacketConn
	var streams net.Listener
	if err := at.Do(func() (err error) {
		if packets, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 53).String()); err != nil {
			return err
		}
		streams, err = net.Listen("tcp", netip.AddrPortFrom(addr, 53).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: v}, {Listener: streams, Handler: v}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		server.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(server.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
}

// ServeDNS implements dns.Handler.
func (v *vpcDNS) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	m.RecursionAvailable = true
	m.Rcode = dns.RcodeNameError
	q := r.Question[0]
	name := dns.CanonicalName(q.Name)
	for _, record := range v.records {
		if record.Header().Name != name {
			continue
		}
		m.Rcode = dns.RcodeSuccess
		alias, isAlias := record.(*dns.CNAME)
		if isAlias || record.Header().Rrtype == q.Qtype {
			m.Answer = append(m.Answer, record)
		}
		if isAlias {
			name = alias.Target
			for _, target := range v.records {
				if target.Header().Name == name && target.Header().Rrtype == q.Qtype {
					m.Answer = append(m.Answer, target)
				}
			}
			break
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.", Mbox: "hostmaster.", Minttl: 60,
		}}
	}
	_ = w.WriteMsg(m) // a client that gets nothing asks again
}
