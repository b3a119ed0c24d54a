package upstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Whatever a server sends, what a client gets is a message to its question, with records of names that belong to it.
func FuzzReply(f *testing.F) {
	const id = 0x1234
	client := question("www.example.")
	client.SetEdns0(1232, true)
	q, err := newQuery(client)
	if err != nil {
		f.Fatal(err)
	}
	query := new(dns.Msg)
	if err := query.Unpack(q.message(nil, id, false)); err != nil {
		f.Fatal(err)
	}
	for _, does := range faults {
		f.Add(does(&asked{Msg: query.Copy()}))
	}
	f.Add(ok(&asked{Msg: query.Copy()}))
	f.Fuzz(func(t *testing.T, reply []byte) {
		if q.judge(id, reply) == isOther {
			return
		}
		_, _ = refusesEDNS(reply), truncated(reply)
		m := new(dns.Msg)
		if m.Unpack(reply) != nil || !complete(m, reply) {
			return
		}
		before := len(m.Answer) + len(m.Ns) + len(m.Extra)
		if gone := scrub(m, q); gone < 0 || before-gone != len(m.Answer)+len(m.Ns)+len(m.Extra) {
			t.Fatalf("%d of %d records are gone, %v is left", gone, before, m)
		}
		names := aliases(m.Answer, "www.example.")
		for _, r := range m.Answer {
			if h := r.Header(); len(m.Question) > 0 && !isAbove(h.Name, names) {
				t.Fatalf("%v belongs to none of %q", r, names)
			}
		}
		got := replyTo(client, m)
		if got.Id != client.Id || !got.Response || len(got.Question) != 1 || got.Question[0] != client.Question[0] || got.Rcode > 15 {
			t.Fatalf("the client gets %v", got)
		}
	})
}

// Whatever bytes come on a connection, in whatever pieces, each question has one result, and a reply is one to it.
func FuzzConnection(f *testing.F) {
	reply := ok(&asked{Msg: question("www.example.")})
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)
	f.Add(frame, uint8(3))
	f.Add(append(bytes.Repeat(frame, 3), 0xff, 0xff, 1), uint8(1))
	f.Add([]byte{0, 0, 0, 12}, uint8(0))
	q, err := newQuery(question("www.example."))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		ours, theirs := net.Pipe()
		var running sync.WaitGroup
		c := newConn(ours, &running, func(*conn) {})
		running.Go(func() {
			defer theirs.Close()
			query, err := readFrame(theirs)
			if err != nil {
				return
			}
			if len(stream) >= 4 { // the first reply has the right id: it gets far
				copy(stream[2:4], query[:2])
			}
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), int(piece)+1)
				if _, err := theirs.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
		})
		got, err := c.exchange(context.Background(), q, false)
		if err == nil && q.judge(binary.BigEndian.Uint16(got), got) == isOther {
			t.Errorf("the reply is %x", got)
		}
		var lost *lostError
		if err != nil && !errors.As(err, &lost) && !errors.Is(err, errMixedUp) {
			t.Errorf("error %v", err)
		}
		c.end(errRetired)
		running.Wait()
	})
}
