# A long connection: a line goes round ten times a second; counts into /run/long, and says there how it ended.
use strict;
use IO::Socket::INET;
my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 9000) or die "connect: $!\n";
$c->autoflush(1);
my $round = 0;
while (1) {
    print $c "$round\n";
    my $line = <$c>;
    my $state = defined $line && $line eq "$round\n" ? 'open' : 'closed';
    $round++ if $state eq 'open';
    if (open my $out, '>', '/run/long.new') {
        print $out "$round $state\n";
        close $out;
        rename '/run/long.new', '/run/long';
    }
    exit if $state eq 'closed';
    select undef, undef, undef, 0.1;
}
