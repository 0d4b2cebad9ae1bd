// A network namespace with devices, addresses, routes, rules, neighbours, settings and a packet filter. It must look the
// same afterwards to the tools that show it. argv[2] names the kind.
#include <sched.h>

#include "support/object.h"

enum { TEXT_MAX = 1 << 16 };

static void run(const char *command) {
    int status = system(command);
    CHECK(status == 0, "%s: status %d", command, status);
}

static char *output_of(const char *command) {
    char *text = calloc(1, TEXT_MAX);
    FILE *pipe = popen(command, "r");
    size_t length = fread(text, 1, TEXT_MAX - 1, pipe);
    text[length] = 0;
    pclose(pipe);
    return text;
}

// What a command shows once it shows the same for a while: a device learns late whether it has a carrier
// (net/core/link_watch.c), and routes and addresses follow from that.
static char *settled_output_of(const char *command) {
    char *last = output_of(command);
    for (int tries = 0, same = 0; tries < 40 && same < 2; tries++) {
        usleep(40000);
        char *now = output_of(command);
        same = strcmp(now, last) == 0 && !strstr(now, "LOWERLAYERDOWN") ? same + 1 : 0;
        free(last);
        last = now;
    }
    return last;
}

static const struct {
    const char *name, *make, *show, *breaking;
} kinds[] = {
    {"lo", "ip link set lo up && ip addr add 10.9.8.7/32 dev lo", "ip addr", "ip link set lo down"},
    {"device",
     "ip link set lo up && ip link add d0 type veth peer name p0 && ip link set d0 address 02:00:00:00:12:34 mtu 1400 txqueuelen 77 up && "
     "ip link set p0 up && ip link set d0 alias named && ip addr add 10.1.2.3/24 dev d0 && ip addr add 10.1.2.4/24 dev d0 && "
     "ip -6 addr add fd00::5/64 dev d0 nodad",
     "ip -d link; ip addr; ip route show table all | sort", "ip addr del 10.1.2.3/24 dev d0"},
    {"routes",
     "ip link set lo up && ip link add d0 type veth peer name p0 && ip link set d0 up && ip addr add 10.1.2.3/24 dev d0 && "
     "ip route add 10.7.0.0/16 via 10.1.2.9 metric 50 && ip route add default via 10.1.2.1 && "
     "ip route add 10.8.0.0/16 via 10.1.2.8 table 77 && ip route add unreachable 10.66.0.0/16 && "
     "ip rule add from 10.1.2.3 table 77 priority 100 && ip rule add fwmark 5 lookup 78 && ip -6 rule add to fd00::/8 table 9 && "
     "ip neigh add 10.1.2.20 lladdr 02:00:00:00:00:20 dev d0 nud permanent",
     "ip route show table all | sort; ip rule; ip -6 rule; ip neigh", "ip rule del priority 100"},
    {"veth",
     "ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 10.3.0.1/24 dev v0 && ip link set v0 up && "
     "ip link set v1 mtu 1300 up",
     "ip -d link; ip -4 addr", "ip link del v0"},
    {"bridge",
     "ip link add br0 type bridge forward_delay 700 stp_state 0 && ip link add d0 type veth peer name p0 && ip link set d0 master br0 up && "
     "ip addr add 10.4.0.1/24 dev br0 && ip link set br0 up",
     // The kernel tells the carrier of a new device late (net/core/link_watch.c), so what follows from it says nothing.
     "(ip link; ip -4 addr; ip -o link show master br0) | sed -E 's/NO-CARRIER,//; s/ qdisc [a-z]+ state [A-Z]+//'; "
     "cat /sys/class/net/br0/bridge/forward_delay 2>/dev/null",
     "ip link set d0 nomaster"},
    {"macvlan",
     "ip link add d0 type veth peer name p0 && ip link set p0 up && ip link set d0 up && "
     "ip link add link d0 name mv0 type macvlan mode bridge && ip link set mv0 up && ip addr add 10.5.0.1/24 dev mv0",
     "ip -d link; ip -4 addr; ip route", "ip link del mv0"},
    {"vlan",
     "ip link add d0 type veth peer name p0 && ip link set p0 up && ip link set d0 up && "
     "ip link add link d0 name d0.7 type vlan id 7 && ip link set d0.7 up && ip addr add 10.5.0.1/24 dev d0.7",
     "ip -d link; ip -4 addr; ip route", "ip link del d0.7"},
    {"tun",
     "ip tuntap add dev t0 mode tun && ip tuntap add dev t1 mode tap user 12 && ip addr add 10.6.0.1/24 dev t0 && ip link set t1 up",
     "(ip -d link; ip -4 addr) | sed -E 's/NO-CARRIER,//; s/ qdisc [a-z_]+ state [A-Z]+//'", "ip link del t1"},
    {"settings-of-devices",
     "ip link set lo up && ip link add d0 type veth peer name p0 && echo 2 > /proc/sys/net/ipv4/conf/default/arp_announce && "
     "echo 0 > /proc/sys/net/ipv4/conf/p0/arp_announce && echo 3 > /proc/sys/net/ipv6/conf/default/accept_ra_defrtr && "
     "echo 2001:db8::1 > /proc/sys/net/ipv6/conf/default/stable_secret && echo 2001:db8::2 > /proc/sys/net/ipv6/conf/d0/stable_secret && "
     "echo 0 > /proc/sys/net/ipv6/conf/p0/addr_gen_mode",
     "cd /proc/sys/net && grep . ipv4/conf/*/arp_announce ipv6/conf/*/accept_ra_defrtr ipv6/conf/*/addr_gen_mode "
     "ipv6/conf/default/stable_secret ipv6/conf/d0/stable_secret",
     "echo 1 > /proc/sys/net/ipv4/conf/p0/arp_announce"},
    {"settings",
     "ip link set lo up && ip link add d0 type veth peer name p0 && echo 1 > /proc/sys/net/ipv4/ip_forward && "
     "echo 2 > /proc/sys/net/ipv4/conf/d0/rp_filter && echo 1234 60000 > /proc/sys/net/ipv4/ip_local_port_range && "
     "echo 1 > /proc/sys/net/ipv6/conf/d0/disable_ipv6 && echo 77 > /proc/sys/net/core/somaxconn",
     "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/forwarding "
     "/proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv6/conf/d0/disable_ipv6 /proc/sys/net/core/somaxconn",
     "echo 0 > /proc/sys/net/ipv4/ip_forward"},
    // Some are taken over from the host, some are told exactly by another file only; not every kernel has them all.
    {"settings-of-tcp",
     "ip link set lo up && ip link add d0 type veth peer name p0 && cd /proc/sys/net && "
     "echo 4096 77777 888888 > ipv4/tcp_rmem && echo 4096 66666 777777 > ipv4/tcp_wmem && "
     "echo reno > ipv4/tcp_congestion_control && "
     "echo 00000001-00000002-00000003-00000004 > ipv4/tcp_fastopen_key && echo 777 > ipv4/neigh/d0/retrans_time_ms && "
     "echo 7777 > ipv6/neigh/d0/base_reachable_time_ms && echo 777 > ipv6/route/gc_min_interval_ms && "
     "for f in ipv4/tcp_rto_max_ms=7777 core/rps_default_mask=1 mptcp/path_manager=userspace; do "
     "if test -e ${f%=*}; then echo ${f#*=} > ${f%=*}; fi; done",
     "cd /proc/sys/net && grep . ipv4/tcp_[rw]mem ipv4/tcp_congestion_control ipv4/tcp_fastopen_key ipv4/tcp_rto_max_ms "
     "ipv4/neigh/*/retrans_time_ms ipv6/neigh/*/base_reachable_time_ms ipv6/route/gc_min_interval_ms "
     "core/rps_default_mask mptcp/path_manager",
     "echo 4096 77777 888889 > /proc/sys/net/ipv4/tcp_rmem"},
    {"nexthop",
     "ip link set lo up && ip link add d0 type veth peer name p0 && ip link set d0 up && ip link set p0 up && "
     "ip addr add 10.1.2.3/24 dev d0 && ip -6 addr add fd00::5/64 dev d0 nodad && "
     "ip nexthop add id 5 dev d0 && ip nexthop add id 6 via 10.1.2.9 dev d0 && ip nexthop add id 7 via 10.1.2.10 dev d0 && "
     "ip nexthop add id 3 group 6,3/7 && ip nexthop add id 8 blackhole && ip nexthop add id 9 via fd00::9 dev d0 && "
     "ip route add 10.9.0.0/16 nhid 5 && ip route add 10.10.0.0/16 nhid 3 && ip route add 10.11.0.0/16 nhid 8 && "
     "ip -6 route add fd01::/64 nhid 9",
     "ip nexthop; ip route show table all | sort; ip -6 route | sort", "ip nexthop flush"},
    {"promiscuous",
     "ip link set lo up && ip link add d0 type veth peer name p0 && ip link set d0 up promisc on && ip link set p0 up allmulticast on",
     "ip -d link", "ip link set d0 promisc off"},
    {"segmentation",
     "ip link set lo up && ip link add d0 type veth peer name p0 && ip link set d0 up gso_max_size 30000 gso_max_segs 100 && "
     "ip link set p0 up gro_max_size 40000",
     "ip -d link", "ip link set d0 gso_max_size 65536"},
    {"proxies",
     "ip link set lo up && ip link add d0 type veth peer name p0 && ip link set d0 up && ip addr add 10.1.2.3/24 dev d0 && "
     "ip neigh add proxy 10.1.2.77 dev d0 && ip -6 neigh add proxy fd00::77 dev d0",
     "ip neigh show proxy; ip -6 neigh show proxy", "ip neigh del proxy 10.1.2.77 dev d0"},
    {"loopback-removed",
     "ip link set lo up && ip addr del 127.0.0.1/8 dev lo && ip addr add 127.0.0.2/8 dev lo && ip addr add 127.0.0.1/32 dev lo",
     "ip addr; ip route show table all | sort", "ip addr add 127.0.0.1/8 dev lo"},
    {"vxlan",
     "ip link set lo up && ip link add d0 type veth peer name p0 && ip link set d0 up && ip link set p0 up && "
     "ip addr add 10.1.2.3/24 dev d0 && ip link add x0 type vxlan id 5 dstport 4789 ttl inherit remote 10.1.2.9 local 10.1.2.3 dev d0 && "
     "ip link add x1 type vxlan id 6 dstport 4790 nolearning ttl 9 group 239.1.1.1 dev d0 && "
     "ip link set x0 up && ip addr add 10.4.0.1/24 dev x0",
     "ip -d link; ip -4 addr", "ip link del x0"},
    {"loopback-six", "ip link set lo up && ip addr del ::1/128 dev lo", "ip addr", "ip addr add ::1/128 dev lo"},
    {"labels", "ip addrlabel add prefix 2001:db8::/32 label 99", "ip addrlabel", "ip addrlabel del prefix 2001:db8::/32 label 99"},
    {"mptcp", "ip mptcp endpoint add 192.0.2.1 id 3 signal && ip mptcp limits set subflow 7", "ip mptcp endpoint; ip mptcp limits",
     "ip mptcp endpoint flush"},
    {"qdisc", "ip link set lo up && tc qdisc add dev lo root tbf rate 1mbit burst 10k latency 10ms", "tc qdisc",
     "tc qdisc del dev lo root"},
    {"ipsec", "ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out action block", "ip xfrm policy", "ip xfrm policy flush"},
    {"forwarding", "ip link add br0 type bridge && bridge fdb add 02:00:00:00:00:07 dev br0 self", "bridge fdb show dev br0",
     "bridge fdb del 02:00:00:00:00:07 dev br0 self"},
    {"filter", "nft -f ruleset",
     "nft list ruleset | sed 's/ expires [0-9a-z]*//g'", "nft flush ruleset"},
};

static const char ruleset[] = "table inet f {\n"
                              "set leased { type ipv4_addr; flags interval,timeout; timeout 1d; elements = { 10.1.0.0/16, 10.3.0.1 }\n }\n"
                              "set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.1.1 }\n }\n"
                              "map m { type inet_service : verdict; elements = { 22 : accept, 23 : drop }\n }\n"
                              "chain o {\n ct state established accept\n }\n"
                              "chain i { type filter hook input priority 0; policy accept;\n"
                              "ip saddr @s counter packets 3 bytes 300 accept\n"
                              "tcp dport vmap @m\n"
                              "tcp dport { 80, 443 } counter accept\n"
                              "jump o\n }\n }\n"
                              "table ip n {\n chain p { type filter hook output priority 100;\n oifname \"x0\" drop\n }\n }\n";

int main(int argc, char **argv) {
    object_start(argc, argv);
    if (unshare(CLONE_NEWNET) != 0) {
        object_put_file("result", "SKIP no network namespaces here\n");
        return 0;
    }
    run("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) != 0) continue;
        if (strcmp(argv[2], "filter") == 0 && system("nft list ruleset >/dev/null 2>&1") != 0) {
            object_put_file("result", "SKIP no nft here\n");
            return 0;
        }
        if (strcmp(argv[2], "tun") == 0 && access("/dev/net/tun", F_OK) != 0) {
            object_put_file("result", "SKIP no /dev/net/tun here\n");
            return 0;
        }
        if (strcmp(argv[2], "mptcp") == 0 && access("/proc/sys/net/mptcp", F_OK) != 0) {
            object_put_file("result", "SKIP no MPTCP here\n");
            return 0;
        }
        object_write_file("ruleset", 0, ruleset);
        MUST(chdir(object_directory));
        run(kinds[i].make);
        char *before = settled_output_of(kinds[i].show);
        CHECK(strlen(before) > 0, "%s shows nothing", kinds[i].show);
        object_ready_and_wait();
        SABOTAGE(run(kinds[i].breaking));
        char *after = output_of(kinds[i].show);
        // A device learns late whether it has a carrier (net/core/link_watch.c).
        bool waits = strstr(after, "NO-CARRIER") || strstr(before, "linkdown");
        for (int tries = 0; tries < 20 && waits && strcmp(before, after) != 0; tries++) {
            usleep(50000);
            after = output_of(kinds[i].show);
        }
        size_t at = 0;
        while (before[at] && before[at] == after[at]) at++;
        while (at > 0 && before[at - 1] != '\n') at--;
        CHECK(strcmp(before, after) == 0, "before:\n%.300s\nafter:\n%.300s", before + at, after + at);
        object_pass();
    }
    object_fail("no kind %s", argv[2]);
}
