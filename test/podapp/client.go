package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func getCommand(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 3*time.Second, "longest time for the whole request")
	rest, err := parse(flags, args, 1)
	if err != nil {
		return err
	}
	body, err := fetch(ctx, rest[0], *timeout)
	if err != nil {
		return err
	}
	_, err = out.Write(body)
	return err
}

func lookupCommand(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("lookup", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 10*time.Second, "longest time for the whole lookup")
	rest, err := parse(flags, args, 1)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	addrs, err := lookup(ctx, rest[0])
	if err != nil {
		return err
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, a := range addrs {
		fmt.Fprintln(out, a.Unmap())
	}
	return nil
}

// lookup asks as a program in the pod would: the servers, search list and options of /etc/resolv.conf, A and AAAA.
func lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true}
	return r.LookupNetIP(ctx, "ip", name)
}

// namesCommand prints what names lead to, a line for each. A name that begins with an underscore is one of a service.
func namesCommand(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("names", flag.ContinueOnError)
	rounds := flags.Int("rounds", 1, "how often to look each one up")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		return fmt.Errorf("names takes at least one name: %w", errUsage)
	}
	for range *rounds {
		for _, name := range flags.Args() {
			found, err := leadsTo(ctx, name)
			var missing *net.DNSError
			if errors.As(err, &missing) && missing.IsNotFound {
				found, err = []string{"none"}, nil
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(out, name, strings.Join(found, " "))
		}
	}
	return nil
}

// leadsTo returns addresses, or "priority,weight,port,target" of each server of a service.
func leadsTo(ctx context.Context, name string) (found []string, err error) {
	if strings.HasPrefix(name, "_") {
		r := net.Resolver{PreferGo: true}
		_, servers, err := r.LookupSRV(ctx, "", "", name)
		for _, s := range servers {
			found = append(found, fmt.Sprintf("%d,%d,%d,%s", s.Priority, s.Weight, s.Port, strings.TrimSuffix(s.Target, ".")))
		}
		return found, err
	}
	addrs, err := lookup(ctx, name)
	for _, a := range addrs {
		found = append(found, a.Unmap().String())
	}
	return found, err
}

func udpEchoCommand(ctx context.Context, args []string) error {
	rest, err := parse(flag.NewFlagSet("udp-echo", flag.ContinueOnError), args, 1)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", rest[0])
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := udpEcho(conn, here().Pod); ctx.Err() == nil {
		return err
	}
	return nil
}

// udpEcho answers each datagram with "<pod> <what came>" until conn is closed.
func udpEcho(conn net.PacketConn, pod string) error {
	datagram := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(datagram)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(append([]byte(pod+" "), datagram[:n]...), from); err != nil {
			return err
		}
	}
}

func udpGetCommand(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("udp-get", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 3*time.Second, "longest time to wait for the answer")
	rest, err := parse(flags, args, 2)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", rest[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(*timeout)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(rest[1])); err != nil {
		return err
	}
	datagram := make([]byte, 64<<10)
	n, err := conn.Read(datagram)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", datagram[:n])
	return err
}
