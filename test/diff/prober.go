package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A spot is a place as a prober is told of it: "name=/path/of/namespace=address,address".
type spot struct {
	name, path string
	addrs      []netip.Addr
}

func (s spot) String() string {
	texts := make([]string, len(s.addrs))
	for i, a := range s.addrs {
		texts[i] = a.String()
	}
	return s.name + "=" + s.path + "=" + strings.Join(texts, ",")
}

func parseSpot(text string) (s spot, err error) {
	parts := strings.Split(text, "=")
	if len(parts) != 3 {
		return s, fmt.Errorf("place %q is not name=namespace=addresses", text)
	}
	s.name, s.path = parts[0], parts[1]
	for a := range strings.SplitSeq(parts[2], ",") {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return s, err
		}
		s.addrs = append(s.addrs, addr)
	}
	return s, nil
}

// runProber serves at every place it is told of, and asks from there what it is told on in. It is a process of its own,
// because the cgroup that it is in decides which programs see its sockets.
func runProber(args []string, in io.Reader, out io.Writer) error {
	askers := map[string]chan job{}
	for _, text := range args {
		s, err := parseSpot(text)
		if err != nil {
			return err
		}
		jobs := make(chan job)
		askers[s.name] = jobs
		ready := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread is of another namespace now
			err := enter(s.path)
			if err == nil {
				err = serveAt(s.addrs)
			}
			var a *asker
			if err == nil {
				a, err = newAsker(s.addrs)
			}
			ready <- err
			for j := range jobs {
				j.done <- a.run(j)
			}
		}()
		if err := <-ready; err != nil {
			return fmt.Errorf("set up %s: %w", s.name, err)
		}
	}
	fmt.Fprintln(out, `{"seen": []}`) // everything answers
	return takeOrders(askers, in, out)
}

func enter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// A job is the part of an order that one place has.
type job struct {
	order
	results []seen // one for each ask
	done    chan error
}

func takeOrders(askers map[string]chan job, in io.Reader, out io.Writer) error {
	orders, replies := json.NewDecoder(bufio.NewReaderSize(in, 1<<20)), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r := reply{Seen: make([]seen, len(o.Asks))}
		if err := carryOut(askers, o, r.Seen); err != nil {
			r.Error = err.Error()
		}
		if err := replies.Encode(r); err != nil {
			return err
		}
	}
}

// carryOut has all places ask at the same time.
func carryOut(askers map[string]chan job, o order, results []seen) error {
	parts, indexes := map[string]*job{}, map[string][]int{}
	for i, a := range o.Asks {
		if askers[a.Place] == nil {
			return fmt.Errorf("no place %q", a.Place)
		}
		j := parts[a.Place]
		if j == nil {
			j = &job{order: order{Patience: o.Patience, Netfilter: o.Netfilter}, done: make(chan error, 1)}
			parts[a.Place] = j
		}
		j.Asks = append(j.Asks, a)
		indexes[a.Place] = append(indexes[a.Place], i)
	}
	var wait sync.WaitGroup
	for place, j := range parts {
		j.results = make([]seen, len(j.Asks))
		wait.Go(func() { askers[place] <- *j })
	}
	wait.Wait()
	var errs []error
	for place, j := range parts {
		errs = append(errs, <-j.done)
		for k, i := range indexes[place] {
			results[i] = j.results[k]
		}
	}
	return errors.Join(errs...)
}

// serveAt answers connections and datagrams at the backend ports of addresses of the calling thread's namespace: who was
// reached, and from where.
func serveAt(addrs []netip.Addr) error {
	for _, a := range addrs {
		for _, port := range backendPorts {
			at := netip.AddrPortFrom(a, port)
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			go serveTCP(l, at)
			go serveUDP(c, at)
		}
	}
	return nil
}

func serveTCP(l *net.TCPListener, at netip.AddrPort) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		// The client resets: nothing stays behind of the connection.
		_, _ = io.WriteString(conn, answer(at, from)+"\n")
		go func() {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}()
	}
}

func serveUDP(c *net.UDPConn, at netip.AddrPort) {
	buf := make([]byte, 64)
	for {
		_, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort([]byte(answer(at, from)), from)
	}
}
