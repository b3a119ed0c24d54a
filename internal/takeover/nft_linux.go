package takeover

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Names of kube-proxy's own tables (mode nftables) and of the keeper.
const (
	nativeTable = "kube-proxy"
	keeperTable = "nearpath-takeover"
	keeperChain = "keep-nat"
)

// nftBatch is how many chains one transaction deletes: each is answered, and answers must fit into a socket's buffer.
const nftBatch = 256

func familyOf(v6 bool) nftables.TableFamily {
	if v6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// nfTables is kube-proxy's in nf_tables: its own tables, and those of iptables-nft.
type nfTables struct {
	native []*nftables.Table
	compat []ruleset
	keeper bool
}

// readNFTables reads what matters: of kube-proxy's chains the names, of others' the rules that lead somewhere. A kernel
// without nf_tables has nothing.
func readNFTables() (out nfTables, err error) {
	c := &nftables.Conn{}
	tables, err := c.ListTables()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		ip := t.Family == nftables.TableFamilyIPv4 || t.Family == nftables.TableFamilyIPv6
		switch {
		case t.Family == nftables.TableFamilyINet && t.Name == keeperTable:
			out.keeper = true
		case ip && t.Name == nativeTable:
			out.native = append(out.native, t)
		case ip && ownChains[t.Name] != nil:
			r, err := readCompat(c, t)
			if err != nil {
				return out, err
			}
			out.compat = append(out.compat, r)
		}
	}
	return out, nil
}

func readCompat(c *nftables.Conn, t *nftables.Table) (ruleset, error) {
	r := ruleset{v6: t.Family == nftables.TableFamilyIPv6, name: t.Name, chains: map[string]chain{}}
	all, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return r, fmt.Errorf("list chains of table %s: %w", t.Name, err)
	}
	all = slices.DeleteFunc(all, func(ch *nftables.Chain) bool { return ch.Table.Name != t.Name })
	if !slices.ContainsFunc(all, func(ch *nftables.Chain) bool { return isOwn(t.Name, ch.Name) }) {
		return r, nil // nothing of kube-proxy's: nobody's rules matter
	}
	for _, ch := range all {
		have := chain{base: ch.Hooknum != nil, drops: ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop}
		if !isOwn(t.Name, ch.Name) {
			have.jumped, err = readJumps(c, t, ch)
		}
		if err != nil {
			return r, err
		}
		r.chains[ch.Name] = have
	}
	return r, r.readOwn(c, t)
}

// readOwn reads the rules of kube-proxy's chains if they matter: if some chain leads there that is neither the kernel's nor
// kube-proxy's. There may be tens of thousands.
func (r ruleset) readOwn(c *nftables.Conn, t *nftables.Table) error {
	foreign := slices.ContainsFunc(slices.Collect(maps.Values(r.chains)), func(ch chain) bool {
		return !ch.base && slices.ContainsFunc(ch.jumped, func(j jump) bool { return isOwn(t.Name, j.to) })
	})
	if !foreign {
		return nil
	}
	for name := range r.chains {
		if !isOwn(t.Name, name) {
			continue
		}
		jumps, err := readJumps(c, t, &nftables.Chain{Table: t, Name: name})
		if err != nil {
			return err
		}
		r.chains[name] = chain{jumped: jumps}
	}
	return nil
}

func readJumps(c *nftables.Conn, t *nftables.Table, ch *nftables.Chain) (out []jump, err error) {
	rules, err := c.GetRules(t, ch)
	if err != nil {
		return nil, fmt.Errorf("read chain %s of table %s: %w", ch.Name, t.Name, err)
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if v, ok := e.(*expr.Verdict); ok && v.Chain != "" {
				out = append(out, jump{to: v.Chain, handle: r.Handle})
			}
		}
	}
	return out, nil
}

// deleteNative deletes kube-proxy's own tables, all in one transaction.
func deleteNative(tables []*nftables.Table) error {
	c := &nftables.Conn{}
	for _, t := range tables {
		c.DelTable(t)
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete kube-proxy's nftables tables: %w", err)
	}
	return nil
}

// deleteCompat carries a removal out. The rules that lead to kube-proxy's chains go in one transaction: from then on no
// packet meets half of them.
func deleteCompat(r removal) error {
	c := &nftables.Conn{}
	t := &nftables.Table{Name: r.table.name, Family: familyOf(r.table.v6)}
	for name, jumps := range r.rules {
		for _, j := range jumps {
			if err := c.DelRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Table: t, Name: name}, Handle: j.handle}); err != nil {
				return err
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete the rules that lead to kube-proxy's chains in table %s: %w", t.Name, err)
	}
	return errors.Join(inBatches(c, t, r.chains, c.FlushChain), inBatches(c, t, r.chains, c.DelChain))
}

func inBatches(c *nftables.Conn, t *nftables.Table, chains []string, do func(*nftables.Chain)) error {
	for part := range slices.Chunk(chains, nftBatch) {
		for _, name := range part {
			do(&nftables.Chain{Table: t, Name: name})
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("delete kube-proxy's chains in table %s: %w", t.Name, err)
		}
	}
	return nil
}

// makeKeeper keeps NAT and conntrack switched on for both families. A nat chain is what NAT stays for, the rule that asks
// for conntrack's direction what conntrack stays for; it has no verdict, and only first packets of connections meet it.
func makeKeeper() error {
	c := &nftables.Conn{}
	t := c.AddTable(&nftables.Table{Name: keeperTable, Family: nftables.TableFamilyINet})
	ch := c.AddChain(&nftables.Chain{
		Name: keeperChain, Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource, Policy: new(nftables.ChainPolicyAccept),
	})
	c.FlushChain(ch)
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("make nftables table %s: %w", keeperTable, err)
	}
	return nil
}

// RemoveKeeper deletes the keeper's table if it is there.
func RemoveKeeper() error {
	c := &nftables.Conn{}
	c.DelTable(&nftables.Table{Name: keeperTable, Family: nftables.TableFamilyINet})
	err := c.Flush()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete nftables table %s: %w", keeperTable, err)
	}
	return nil
}
