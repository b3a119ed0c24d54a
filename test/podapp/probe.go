package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// An order is a line that a probe reads.
type order struct {
	ID int `json:"id"`
	// Do is "ask" (one request), "resolve" (one DNS query for A or AAAA), "flow" (requests without end), "peek" (how a
	// flow does) or "stop" (the same, and the flow ends).
	Do      string        `json:"do"`
	Network string        `json:"network,omitempty"` // tcp or udp
	To      string        `json:"to,omitempty"`      // address and port
	Name    string        `json:"name,omitempty"`    // to resolve
	Every   time.Duration `json:"every,omitempty"`   // between requests of a flow
	Timeout time.Duration `json:"timeout,omitempty"` // of one request
	Flow    int           `json:"flow,omitempty"`    // ID of the order that began it
}

// A reply is what a probe writes about an order.
type reply struct {
	ID int `json:"id"`
	sighting
	Tries int      `json:"tries,omitempty"` // datagrams that were sent
	Addrs []string `json:"addrs,omitempty"` // of the name
	Flow  *flowed  `json:"flow,omitempty"`
	Error string   `json:"error,omitempty"`
}

// A sighting is what a probe answers to whoever asks it.
type sighting struct {
	By  string         `json:"by,omitempty"`  // the probe's POD_NAME
	Saw netip.AddrPort `json:"saw,omitzero"`  // the client as it was seen
	At  netip.AddrPort `json:"at,omitzero"`   // the address that was asked, as it was seen; TCP only
	Key string         `json:"key,omitempty"` // the text of the request
}

// A prober answers requests and makes them when it is told to.
type prober struct {
	out io.Writer

	mu    sync.Mutex // guards flows and writing to out
	flows map[int]*flow
}

// probeCommand serves ":PORT" by TCP and UDP and reads orders from standard input until it ends.
func probeCommand(ctx context.Context, in io.Reader, out io.Writer, args []string) error {
	rest, err := parse(flag.NewFlagSet("probe", flag.ContinueOnError), args, 1)
	if err != nil {
		return err
	}
	name := here().Pod
	listener, err := net.Listen("tcp", rest[0])
	if err != nil {
		return err
	}
	defer listener.Close()
	conn, err := net.ListenPacket("udp", rest[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	go sightTCP(listener, name)
	go sightUDP(conn, name)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &prober{out: out, flows: map[int]*flow{}}
	p.print(reply{sighting: sighting{By: name}}) // it serves
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return fmt.Errorf("read order %q: %w", lines.Bytes(), err)
		}
		go p.obey(ctx, o)
	}
	return lines.Err()
}

func (p *prober) print(r reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = json.NewEncoder(p.out).Encode(r)
}

func (p *prober) obey(ctx context.Context, o order) {
	r := reply{ID: o.ID}
	var err error
	switch o.Do {
	case "ask":
		r.sighting, r.Tries, err = ask(ctx, o)
	case "resolve":
		r.Addrs, err = askName(ctx, o)
	case "flow":
		p.begin(ctx, o)
	case "peek", "stop":
		r.Flow, err = p.look(o)
	default:
		err = fmt.Errorf("%q is no order", o.Do)
	}
	if err != nil {
		r.Error = err.Error()
	}
	p.print(r)
}

func (p *prober) begin(ctx context.Context, o order) {
	ctx, stop := context.WithCancel(ctx)
	f := &flow{stop: stop, answered: map[int]bool{}}
	p.mu.Lock()
	p.flows[o.ID] = f
	p.mu.Unlock()
	go f.run(ctx, o)
}

func (p *prober) look(o order) (*flowed, error) {
	p.mu.Lock()
	f := p.flows[o.Flow]
	p.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("there is no flow %d", o.Flow)
	}
	if o.Do == "stop" {
		f.stop()
	}
	return f.report(o.Timeout), nil
}

// ask makes one request. A datagram that is not answered is sent again: the first one to a neighbour may get lost while the
// neighbour is asked for.
func ask(ctx context.Context, o order) (seen sighting, tries int, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, o.Network, o.To)
	if err != nil {
		return seen, 0, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	answer := make([]byte, 4096)
	for {
		tries++
		if _, err := fmt.Fprintf(conn, "%d\n", o.ID); err != nil {
			return seen, tries, err
		}
		until := deadline
		if again := time.Now().Add(o.Timeout / 4); o.Network == "udp" && again.Before(deadline) {
			until = again
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return seen, tries, err
		}
		n, err := conn.Read(answer)
		if os.IsTimeout(err) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			return seen, tries, err
		}
		return seen, tries, json.Unmarshal(answer[:n], &seen)
	}
}

// askName asks one server for a name as it is written.
func askName(ctx context.Context, o order) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, o.Network, o.To)
	}}
	return r.LookupHost(ctx, strings.TrimSuffix(o.Name, ".")+".")
}

func sightTCP(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				s := sighting{By: name, Saw: plain(conn.RemoteAddr()), At: plain(conn.LocalAddr()), Key: lines.Text()}
				if json.NewEncoder(conn).Encode(s) != nil {
					return
				}
			}
		}()
	}
}

func sightUDP(conn net.PacketConn, name string) {
	datagram := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(datagram)
		if err != nil {
			return
		}
		text, _ := json.Marshal(sighting{By: name, Saw: plain(from), Key: strings.TrimSpace(string(datagram[:n]))})
		_, _ = conn.WriteTo(text, from)
	}
}

// plain is an address without the IPv6 form of IPv4.
func plain(a net.Addr) netip.AddrPort {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
