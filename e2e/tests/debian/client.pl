# A client: a new connection for each request, one after the other, until SIGTERM; counts into /run/client.
use strict;
use IO::Socket::INET;
my ($good, $bad, $last, $end) = (0, 0, '', 0);
$SIG{TERM} = sub { $end = 1 };
$SIG{ALRM} = sub { die "late\n" };
while (!$end) {
    my $answer = '';
    eval {
        alarm 20;
        my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 8080) or die "connect: $!\n";
        print $c "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        $c->flush;
        while (my $line = <$c>) { $answer .= $line }
        die "answer: $answer $!\n" unless $answer =~ /^HTTP\/1.1 200 .*member\n$/s;
        alarm 0;
        $good++;
    };
    if ($@) { alarm 0; $bad++; $last = $@ }
    if (open my $out, '>', '/run/client.new') {
        print $out "$good $bad $last\n";
        close $out;
        rename '/run/client.new', '/run/client';
    }
    select undef, undef, undef, 0.02;
}
